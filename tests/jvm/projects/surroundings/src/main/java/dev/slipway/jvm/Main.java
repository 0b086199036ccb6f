package dev.slipway.jvm;

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;

/**
 * What applications expect of the image around them: a home, a working directory and a place for
 * temporary files that they can write to, and options that are given when the container starts.
 */
public final class Main {
    public static void main(String[] arguments) throws IOException {
        for (String property : new String[] {"user.home", "user.dir", "java.io.tmpdir"}) {
            File file = new File(System.getProperty(property), "written-by-the-application");
            if (!file.createNewFile() && !file.exists()) {
                throw new IOException("cannot write " + file);
            }
        }
        String answer = "hello from " + System.getProperty("greeting");
        int port = Integer.parseInt(System.getenv().getOrDefault("PORT", "8080"));
        try (ServerSocket server = new ServerSocket(port)) {
            while (true) {
                try (Socket client = server.accept()) {
                    answer(client, answer);
                }
            }
        }
    }

    private static void answer(Socket client, String text) throws IOException {
        BufferedReader request =
                new BufferedReader(new InputStreamReader(client.getInputStream(), StandardCharsets.UTF_8));
        for (String line = request.readLine(); line != null && !line.isEmpty(); ) {
            line = request.readLine();
        }
        String response = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + text;
        client.getOutputStream().write(response.getBytes(StandardCharsets.UTF_8));
    }
}
