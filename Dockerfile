# syntax=docker/dockerfile:1

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY crates ./crates
COPY src ./src
# The build also compiles librdkafka, OpenSSL and zlib with the compiler, make and perl of this image.
# The caches survive source changes, so only the first build is slow. Cached files are not part of the
# image, so the binary is copied out.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin butlr-bridge \
    && install -D target/release/butlr-bridge /out/butlr-bridge \
    && install -d /out/state

# Contains glibc, libgcc and CA certificates, but no shell and no package manager. Runs as uid 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/butlr-bridge /usr/local/bin/butlr-bridge
# Mount point of the spool volume; put spool.dir inside it. A named volume inherits this owner.
COPY --from=build --chown=65532:65532 /out/state /var/lib/butlr-bridge
# Ingest (webhooks) and admin (metrics, probes). By default both listen on loopback only: set http.bind
# and admin.bind.
EXPOSE 8080 9464
# There is no HEALTHCHECK, because the image has no program to run one. Probe /livez and /readyz on the
# admin listener instead. The bridge writes only to the spool, so the root file system can be read-only.
ENTRYPOINT ["/usr/local/bin/butlr-bridge"]
CMD ["serve"]
