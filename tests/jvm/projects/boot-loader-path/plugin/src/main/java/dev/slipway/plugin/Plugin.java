package dev.slipway.plugin;

import java.util.function.Supplier;

public final class Plugin implements Supplier<String> {
    @Override
    public String get() {
        return "hello from boot-loader-path";
    }
}
