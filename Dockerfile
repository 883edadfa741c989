# The images of server and operator: one program each and the libraries that it loads, nothing else, not root.
#
#   docker build --target server   -t kvnode-server:0.1.0   .
#   docker build --target operator -t kvnode-operator:0.1.0 .
#
# amd64 and arm64 (docker buildx build --platform linux/amd64,linux/arm64). Builds with BuildKit and with the old builder.
# Programs that are built already are taken from dist/ (dist/kvnode-server, dist/kvnode-operator), and nothing is compiled;
# they must fit the C library of BUILD_IMAGE, which then needs neither Rust nor a network.
#
# The images themselves stand on nothing (scratch). What they are built in is a tag here, for convenience; a release names it
# by digest (.github/workflows/release.yml refuses a tag), since a tag may be another image tomorrow.
ARG BUILD_IMAGE=rust:1.95-bookworm

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# arm64 kernels have pages of 4, 16 or 64 KiB, and an allocator built for larger ones runs on all of them.
RUN if [ "$(uname -m)" = aarch64 ]; then echo 'export JEMALLOC_SYS_WITH_LG_PAGE=16' > /build.env; else : > /build.env; fi
# LICENSE is only there so that the pattern always matches something.
COPY LICENSE dist* /dist/
RUN if [ ! -x /dist/kvnode-server ] || [ ! -x /dist/kvnode-operator ]; then \
      apt-get update && apt-get install -yq --no-install-recommends g++ pkg-config libclang-dev && rm -rf /var/lib/apt/lists/*; \
    fi
# First all dependencies under empty programs: this layer stays until a manifest changes.
COPY Cargo.toml Cargo.lock rust-toolchain.toml ./
COPY .cargo .cargo
COPY server/Cargo.toml server/
COPY server/api/Cargo.toml server/api/
COPY operator/Cargo.toml operator/
# The operator's tests name this one as a dependency.
COPY tests/Cargo.toml tests/
RUN if [ ! -x /dist/kvnode-server ] || [ ! -x /dist/kvnode-operator ]; then \
      sed -i 's/, "tests[^"]*"//g' Cargo.toml && \
      mkdir -p server/src server/api/src operator/src tests/src && \
      for part in server server/api operator tests; do touch $part/src/lib.rs; done && \
      for part in server operator; do echo 'fn main() {}' > $part/src/main.rs; done && \
      . /build.env && cargo build --release -p kvnode-server -p kvnode-operator; \
    fi
COPY server server
COPY operator operator
RUN for program in kvnode-server kvnode-operator; do \
      if [ ! -x /dist/$program ]; then \
        find server operator -name '*.rs' -exec touch {} + && . /build.env && cargo build --release -p $program && \
        cp target/release/$program /dist/ || exit 1; \
      fi; \
    done
# Each program with the libraries that the dynamic linker names, under the paths where it looks for them.
RUN for program in kvnode-server kvnode-operator; do \
      root=/image/$program; \
      mkdir -p $root/usr/local/bin $root/etc $root/tmp && \
      cp /dist/$program $root/usr/local/bin/ && \
      (strip --strip-debug $root/usr/local/bin/$program 2>/dev/null || true) && \
      ! ldd /dist/$program | grep 'not found' && \
      ldd /dist/$program | grep -o '/[^ ]* (0x' | cut -d ' ' -f 1 | while read -r library; do \
        mkdir -p $root${library%/*} && cp -L $library $root$library || exit 1; \
      done && \
      if [ $program = kvnode-operator ] && [ -f /etc/ssl/certs/ca-certificates.crt ]; then \
        mkdir -p $root/etc/ssl/certs && cp -L /etc/ssl/certs/ca-certificates.crt $root/etc/ssl/certs/; \
      fi && \
      echo 'hosts: files dns' > $root/etc/nsswitch.conf && \
      echo 'nonroot:x:65532:65532:nonroot:/:/sbin/nologin' > $root/etc/passwd && \
      echo 'nonroot:x:65532:' > $root/etc/group || exit 1; \
    done; \
    mkdir -p /image/data

FROM scratch AS operator
COPY --from=build /image/kvnode-operator /
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/kvnode-operator"]
CMD ["run"]

FROM scratch AS server
COPY --from=build /image/kvnode-server /
COPY --from=build --chown=65532:65532 /image/data /data
USER 65532:65532
VOLUME ["/data"]
# clients, peers, admin API and metrics
EXPOSE 4920 14920 24920
ENTRYPOINT ["/usr/local/bin/kvnode-server"]
CMD ["--addr=0.0.0.0:4920", "--data=/data"]
