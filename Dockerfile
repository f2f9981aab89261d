# syntax=docker/dockerfile:1

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY crates ./crates
COPY src ./src
# librdkafka, OpenSSL and zlib are compiled along, with the compiler, make and perl of this image. The caches outlive a
# change of the sources, so only the first build pays for them; what a cache holds is not in the image, hence the copy.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin butlr-bridge \
    && install -D target/release/butlr-bridge /out/butlr-bridge \
    && install -d /out/state

# glibc, libgcc and CA certificates; no shell, no package manager. Runs as uid 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/butlr-bridge /usr/local/bin/butlr-bridge
# Where a volume for the spool goes (spool.dir in it): a named volume takes its owner from here.
COPY --from=build --chown=65532:65532 /out/state /var/lib/butlr-bridge
# Ingest (webhooks) and admin (metrics, probes). Both listen on loopback unless http.bind and admin.bind say otherwise.
EXPOSE 8080 9464
# No HEALTHCHECK: there is no program in this image to run one. The probes are HTTP on the admin listener: /livez, /readyz.
# Nothing is written to the root file system: run it read-only, with a volume for the spool.
ENTRYPOINT ["/usr/local/bin/butlr-bridge"]
CMD ["serve"]
