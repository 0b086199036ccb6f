package dev.slipway.jvm;

import io.micronaut.http.MediaType;
import io.micronaut.http.annotation.Controller;
import io.micronaut.http.annotation.Get;
import io.micronaut.runtime.Micronaut;

public final class Main {
    public static void main(String[] arguments) {
        Micronaut.run(Main.class, arguments);
    }

    @Controller("/")
    public static class Hello {
        @Get(produces = MediaType.TEXT_PLAIN)
        public String hello() {
            return "hello from micronaut";
        }
    }
}
