package dev.slipway.jvm;

import io.javalin.Javalin;

public final class Main {
    public static void main(String[] arguments) {
        int port = Integer.parseInt(System.getenv().getOrDefault("PORT", "8080"));
        Javalin.create().get("/", context -> context.result("hello from javalin")).start(port);
    }
}
