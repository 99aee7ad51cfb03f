# The image is the binary and nothing else: static, from scratch, not root. It brings no certificates of authorities:
# a cluster's are in the pod or the kubeconfig, and who fetches keys from elsewhere or sends traces by https mounts theirs.
# The last stage is built, pushed, pulled and run by `make test`.
FROM rust:1.95-bookworm AS build
WORKDIR /wharf
COPY . .
# With a target named, crt-static is for the program alone and not for what runs while it is built.
RUN RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --release --locked --bin wharf --target "$(rustc --version --verbose | sed -n 's/^host: //p')" && \
    mkdir -p /image/var/lib/registry /image/etc/wharf && \
    cp target/*/release/wharf /image/wharf && cp deploy/image.yml /image/etc/wharf/config.yml

FROM scratch
COPY --from=build --chown=1000:1000 /image/ /
USER 1000:1000
EXPOSE 5000
VOLUME /var/lib/registry
# By a variable, so that whoever asks in the container, as with `wharf auth can-i`, is answered by the file that is served.
ENV REGISTRY_CONFIGURATION_PATH=/etc/wharf/config.yml
ENTRYPOINT ["/wharf"]
CMD ["serve"]
