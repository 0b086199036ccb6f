package dev.slipway.jvm;

import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;

public final class Main {
    public static void main(String[] arguments) throws Exception {
        // Throws InaccessibleObjectException unless the manifest's Add-Opens reaches the JVM.
        String.class.getDeclaredField("value").setAccessible(true);
        // The same for Add-Exports, with IllegalAccessException.
        Class.forName("sun.security.x509.X500Name").getConstructor(String.class).newInstance("CN=x");
        int port = Integer.parseInt(System.getenv().getOrDefault("PORT", "8080"));
        byte[] answer = "hello from add-opens".getBytes(StandardCharsets.UTF_8);
        HttpServer server = HttpServer.create(new InetSocketAddress(port), 0);
        server.createContext("/", exchange -> {
            exchange.sendResponseHeaders(200, answer.length);
            exchange.getResponseBody().write(answer);
            exchange.close();
        });
        server.start();
    }
}
