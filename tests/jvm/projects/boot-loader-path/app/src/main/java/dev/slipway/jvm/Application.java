package dev.slipway.jvm;

import java.util.ServiceLoader;
import java.util.function.Supplier;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;

@SpringBootApplication
@RestController
public class Application {
    public static void main(String[] arguments) {
        SpringApplication.run(Application.class, arguments);
    }

    /** The answer comes from a library that only loader.path brings. */
    @GetMapping("/")
    @SuppressWarnings("rawtypes")
    String hello() {
        return ServiceLoader.load(Supplier.class).stream()
                .filter(found -> found.type().getName().equals("dev.slipway.plugin.Plugin"))
                .map(found -> (String) found.get().get())
                .findFirst()
                .orElse("no plugin on loader.path");
    }
}
