package dev.slipway.jvm;

import io.vertx.core.Future;
import io.vertx.core.VerticleBase;
import io.vertx.ext.web.Router;

/** The launcher of Vert.x finds it by the manifest's {@code Main-Verticle}. */
public final class Hello extends VerticleBase {
    @Override
    public Future<?> start() {
        int port = Integer.parseInt(System.getenv().getOrDefault("PORT", "8080"));
        Router router = Router.router(vertx);
        router.get("/").handler(context -> context.end("hello from vertx"));
        return vertx.createHttpServer().requestHandler(router).listen(port);
    }
}
