package dev.slipway.jvm

import org.springframework.boot.SpringApplication
import org.springframework.boot.autoconfigure.SpringBootApplication
import org.springframework.web.bind.annotation.GetMapping
import org.springframework.web.bind.annotation.RestController

@SpringBootApplication
@RestController
class Application {
    @GetMapping("/")
    fun hello() = "hello from boot-kotlin"
}

fun main(arguments: Array<String>) {
    SpringApplication.run(Application::class.java, *arguments)
}
