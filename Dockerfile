# The image is the binary and nothing else: static, from scratch, not root.
FROM rust:1.95-bookworm AS build
WORKDIR /wharf
COPY . .
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN apt-get update && apt-get install -y --no-install-recommends cmake && \
    cargo build --release --locked --target x86_64-unknown-linux-gnu && \
    mkdir -p /root-of-image/var/lib/registry && cp target/x86_64-unknown-linux-gnu/release/wharf /root-of-image/wharf

FROM scratch
COPY --from=build --chown=1000:1000 /root-of-image/ /
USER 1000:1000
EXPOSE 5000
VOLUME /var/lib/registry
ENV REGISTRY_HTTP_ADDR=:5000 REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=/var/lib/registry
ENTRYPOINT ["/wharf"]
CMD ["serve"]
