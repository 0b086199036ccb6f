package dev.slipway.jvm;

import io.helidon.webserver.WebServer;

public final class Main {
    public static void main(String[] arguments) {
        int port = Integer.parseInt(System.getenv().getOrDefault("PORT", "8080"));
        WebServer.builder()
                .port(port)
                .routing(routing -> routing.get("/", (request, response) -> response.send("hello from helidon")))
                .build()
                .start();
    }
}
