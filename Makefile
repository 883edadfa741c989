# The front door. Every target installs what it lacks on Debian 12, Debian 13 and Ubuntu 24.04 (git and make are enough).
#
#   make run [NODES=3]   build the server and run it: one node on 127.0.0.1:4920, or a cluster on 4920, 4921, ...
#   make demo            three nodes, a live view, a key that kills the leader
#   make test            everything that can be proved without Kubernetes
#   make sim [SEEDS=100] [SEED=1] [MINUTES=m] [POLICY=lease|strict] [BUG=name] [JOBS=cores]
#                        whole clusters in one thread under virtual time, from one seed each; a failure names its seed,
#                        and SEEDS=1 SEED=n TRACE=1 shows what happened, the same each time. `make test` runs a few
#   make sim-coverage [SEEDS=100]
#                        which part of the server's lines they run: tests/reports/<date>-sim-coverage.txt
#   make crash [ROUNDS=10] [ONLY=word]
#                        a node of a real cluster dies at each crash point, so many times: scenes and passings in turn
#                        (`make test`: once in each scene); all of them: tests/reports/<date>-crash-points.txt
#   make soak [MINUTES=60] the same for so long, from the seed after the last one; adds to tests/reports/<date>-sim.txt
#   make chaos [SEED=n] [FAULTS=20] [NODES=3|5] [DURABILITY=high|medium|low] [KINDS='kill power ...'] [CLIENTS=24]
#             [CALM=10, seconds between faults] [OTHER=path]
#                        the release binary under kills, partitions, power cuts, failing and full disks, clock jumps,
#                        changes of members, upgrades to and downgrades from another build (OTHER), as root; judged, added
#                        to tests/reports/<date>-chaos.txt, from the seed after the last one. CLAIM=high, CONSISTENCY=low
#                        or PLANT=rollback prove that it finds what is wrong
#   make verify          formats, lints, tidiness, docs; writes nothing
#   make fix | gen       write what `verify` asks for | write the generated files
#   make fixtures        write the fixtures of this version, before its release (tests/fixtures/)
#   make kube-up         a real Kubernetes of three nodes on this machine, with our images; says how to use it
#   make kube-test       the suite on it, or on the Kubernetes that KUBECONFIG names [ONLY=word]
#   make kube-down       removes what kube-up made
#   make manifests       write deploy/install.yaml and what the charts hold of other files
#   make fuzz [TARGET=name] [SECONDS=60]
#                        libFuzzer on each decoder, for so long; new inputs stay in a cache; adds to
#                        tests/reports/<date>-fuzz.txt
#   make sbom            the software bill of materials of both programs (CycloneDX)
#   make bench [QUICK=1] ours against redis-server and etcd, interleaved; less of it: [ROUNDS=3] [CELLS='GET,50 SET,50,1']
#                        [ONLY='kvnode, 3;redis'] [KEYS=100000]; another build of ours beside it: [OTHER=path]; an etcd that is
#                        not on the path: KVNODE_ETCD_BIN; whatever else speaks RESP: KVNODE_BENCH_PEERS (tests/bench/peers.rs).
#                        Writes report.html and results.jsonl into bench/<date>-<time> of cargo's target directory
#   make bench CURVES='keys values clients pipeline nodes'
#                        how the figures change along an axis, with pictures
#   make bench TRIALS=disturb,failover,gets,handover,hardship=MINUTES,idle,latency,links,purges=MINUTES,restart,scan,snapshots,
#                        soak=MINUTES,stalls=MINUTES,stock,volume=GIB
#                        pauses, latencies, memory and costs: see tests/bench/trials.rs
#   make bench-guard     what a command costs (CPU, syncs, context switches) against the accepted figures; fails when worse
#   make bench-accept    accept those of now: tests/bench/accepted.json

NODES ?= 1
PORT  ?= 4920
DATA  ?= data

export PATH := $(HOME)/.cargo/bin:$(PATH)
export CARGO_TARGET_DIR ?= $(HOME)/.cache/kvnode/target
export KVNODE_CACHE ?= $(HOME)/.cache/kvnode

# RocksDB's C++ is the long pole: with ccache it is compiled once for all profiles and clones.
CACHED = $(if $(shell command -v ccache 2>/dev/null),CC="ccache gcc" CXX="ccache g++")
CARGO  = $(CACHED) cargo
SERVER = $(CARGO_TARGET_DIR)/release/kvnode-server
DEBUG_SERVER = $(CARGO_TARGET_DIR)/debug/kvnode-server
DEBUG_OPERATOR = $(CARGO_TARGET_DIR)/debug/kvnode-operator
HOST = $(shell rustc -vV | sed -n 's/host: //p')
DEBUG_LOAD = $(CARGO_TARGET_DIR)/debug/kube-load

# The bed makes network namespaces and containers. Go, Helm and the like are built and found by whoever calls.
AS_ROOT = $(if $(filter-out 0,$(shell id -u)),sudo -E)
KUBE    = KVNODE_SERVER_BIN=$(DEBUG_SERVER) KVNODE_OPERATOR_BIN=$(DEBUG_OPERATOR) KVNODE_LOAD_BIN=$(DEBUG_LOAD)

.PHONY: run demo test crash sim soak sim-build sim-coverage chaos verify deny fix gen fixtures fuzz sbom bench backup-trial clean build setup-build setup-test
.PHONY: setup-bench bench-guard bench-accept bench-build
.PHONY: kube-up kube-test kube-down kube-build kube-tools manifests setup-kube setup-chaos

build: setup-build
	$(CARGO) build --release -p kvnode-server

# Node 1 founds, the others join it. Ctrl-C stops all of them and waits for their orderly end.
run: build
	@trap 'kill $$pids 2>/dev/null; wait' INT TERM; pids=; i=0; \
	while [ $$i -lt $(NODES) ]; do \
	  join=; [ $$i -eq 0 ] || join="--join 127.0.0.1:$(PORT)"; \
	  $(SERVER) --addr 127.0.0.1:$$(($(PORT) + i)) --data $(DATA)/$$((i + 1)) $$join & \
	  pids="$$pids $$!"; i=$$((i + 1)); \
	done; wait

demo: build
	$(CARGO) build --release -p kvnode-tests --bin demo
	KVNODE_SERVER_BIN=$(SERVER) $(CARGO_TARGET_DIR)/release/demo

# The programs come with the tests of their packages. Built alone they would have other features of the crates below, and
# these would be compiled once more.
test: setup-test
	$(CARGO) test --workspace --no-run
	KVNODE_SERVER_BIN=$(DEBUG_SERVER) $(CARGO) test --workspace
	$(CARGO) test $(SIM_FEATURES) --test seeds

# With the features of the whole workspace, so that nothing below the server is built twice for it.
SIM_FEATURES = --workspace --features kvnode-sim/sim
SEEDS ?= 100
SEED  ?= 1
JOBS  ?= $(shell nproc)
SIM    = $(CARGO_TARGET_DIR)/sim/sim --jobs $(JOBS) $(if $(POLICY),--policy $(POLICY)) $(if $(TRACE),--trace)
sim: sim-build
	$(SIM) --seed $(SEED) --seeds $(SEEDS) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(BUG),--bug $(BUG))

soak: sim-build
	$(SIM) --minutes $(or $(MINUTES),60) --reports tests/reports --date $$(date -u +%F)

# Optimised, with all assertions: many seeds are worth the longer build, the few of `make test` are not.
sim-build: setup-test
	$(CARGO) test $(SIM_FEATURES) --profile sim --test seeds --no-run

# What of the server the simulation runs, counted by the compiler: into tests/reports.
sim-coverage: setup-test
	$(CACHED) CARGO_TARGET_DIR=$(CARGO_TARGET_DIR) SIM_FEATURES='$(SIM_FEATURES)' \
	  $(CURDIR)/tests/sim/coverage.sh $(SEEDS) tests/reports/$$(date -u +%F)-sim-coverage.txt

CRASH_REPORT = $(if $(ONLY),,KVNODE_CRASH_REPORT=$(CURDIR)/tests/reports/$$(date -u +%F)-crash-points.txt)
crash: setup-test
	$(CARGO) build --workspace --bin kvnode-server
	KVNODE_SERVER_BIN=$(DEBUG_SERVER) KVNODE_CRASH_ROUNDS=$(or $(ROUNDS),10) $(CRASH_REPORT) \
	  $(CARGO) test --workspace --test crash -- $(ONLY)

# Only what is typed is passed on: without SEED the run goes on behind the last one of the reports.
CHAOS_WORDS = SEED FAULTS NODES DURABILITY CONSISTENCY CLAIM KINDS CLIENTS CALM PLANT OTHER
CHAOS_FLAGS = $(foreach word,$(CHAOS_WORDS),$(if $(filter command%,$(origin $(word))),--$(call lower,$(word)) '$($(word))'))
lower = $(shell echo $(1) | tr A-Z a-z)
chaos: setup-chaos build
	$(CARGO) build --release -p kvnode-tests --bin chaos
	@KVNODE_SERVER_BIN=$(SERVER) $(AS_ROOT) $(CARGO_TARGET_DIR)/release/chaos --reports tests/reports --date $$(date -u +%F) \
	  $(CHAOS_FLAGS)

# With the features of `make test`, so that after it there is little left to build.
kube-build: setup-kube
	$(CARGO) build --workspace --bin kvnode-server --bin kvnode-operator --bin kube-load --test kube

kube-tools: setup-kube
	@tests/kube/tools.sh

kube-up: kube-build kube-tools
	@$(KUBE) $(AS_ROOT) tests/kube/up.sh

# Without KUBECONFIG the bed is made first and stays, so that a second run is quick; with it nothing is made. Exit code 77
# of a script says that this machine lacks a tool: one loud line, and a failure where KVNODE_REQUIRE_TOOLS is set. Every
# other failure is one everywhere.
kube-test: kube-build
	@lacks() { \
	  code=$$?; [ $$code = 77 ] && [ -z "$${KVNODE_REQUIRE_TOOLS:-}" ] || exit $$code; \
	  echo "SKIPPED: this machine lacks what the bed of tests/kube needs, see above; make kube-test KUBECONFIG=... takes another" >&2; exit 0; }; \
	bin=$$(tests/kube/tools.sh) || lacks; \
	if [ -z "$${KUBECONFIG:-}" ]; then \
	  $(KUBE) $(AS_ROOT) tests/kube/up.sh || lacks; \
	  export KUBECONFIG=$$(tests/kube/up.sh --kubeconfig); \
	fi; \
	PATH=$$bin:$$PATH $(CARGO) test --workspace --test kube -- $(ONLY)

kube-down:
	@$(AS_ROOT) tests/kube/down.sh

manifests: kube-tools
	@tests/kube/manifests.sh

verify: setup-build
	cargo fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps
	$(CARGO) build -p kvnode-server
	KVNODE_SERVER_BIN=$(DEBUG_SERVER) $(CARGO) test -p kvnode-tests --test tidy
	$(MAKE) deny

# Licences, duplicates and sources of what we link; CHECKS="advisories licenses bans sources" asks the network, too.
CHECKS ?= licenses bans sources
deny: setup-build
	@cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny@0.20.2
	cargo deny check $(CHECKS)

# One CycloneDX document for each program, of what is linked into it on this platform: dist/<program>.cdx.json. The tool
# writes one beside every other member of the workspace as well; nobody asked for those.
SBOM_STRAYS = server operator tests
sbom: setup-build
	@cargo cyclonedx --version >/dev/null 2>&1 || cargo install --locked cargo-cyclonedx@0.5.9
	@mkdir -p dist
	for part in server operator; do \
	  cargo cyclonedx --manifest-path $$part/Cargo.toml --format json --spec-version 1.5 --target $(HOST) \
	    --no-build-deps --override-filename kvnode-$$part.cdx && mv $$part/kvnode-$$part.cdx.json dist/ || exit 1; \
	  find $(SBOM_STRAYS) -name kvnode-$$part.cdx.json -delete; \
	done

fix: setup-build
	cargo fmt --all
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged

gen: setup-build
	$(CARGO) build -p kvnode-server
	$(DEBUG_SERVER) commands --markdown > server/COMMANDS.md
	$(DEBUG_SERVER) config-example > server/config.example.yaml

# Once per release: what later versions must be able to read.
fixtures: setup-test
	$(CARGO) build -p kvnode-server
	KVNODE_SERVER_BIN=$(DEBUG_SERVER) KVNODE_FIXTURES_INTO=$(CURDIR)/tests/fixtures $(CARGO) test -p kvnode-tests --test e2e -- those_of_this_version_can_be_written

# Coverage by flags that the stable compiler takes, in a directory of its own. No sanitizer: our crates forbid `unsafe`.
FUZZ_FLAGS = --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1
SECONDS ?= 60

fuzz: setup-build
	RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --release --locked --manifest-path tests/fuzz/Cargo.toml \
	  --target $(HOST) --target-dir $(CARGO_TARGET_DIR)/fuzz
	tests/fuzz/run.sh $(CARGO_TARGET_DIR)/fuzz/$(HOST)/release/kvnode-fuzz $(SECONDS) \
	  tests/reports/$$(date -u +%F)-fuzz.txt $(TARGET)

BENCH = KVNODE_SERVER_BIN=$(SERVER) $(CARGO_TARGET_DIR)/release/bench $(if $(ROUNDS),--rounds=$(ROUNDS))
bench: bench-build
	$(if $(findstring scan,$(TRIALS)),$(CARGO) build --release -p kvnode-server --example scan_cost)
	$(if $(OTHER),KVNODE_OTHER_BIN=$(OTHER)) $(BENCH) $(if $(QUICK),--quick) \
	  '--trials=$(TRIALS)' '--curves=$(CURVES)' $(if $(KEYS),--keys=$(KEYS)) '--cells=$(CELLS)' '--only=$(ONLY)'

bench-guard: bench-build
	$(BENCH) --guard

bench-accept: bench-build
	$(BENCH) --accept

bench-build: setup-bench build
	$(CARGO) build --release -p kvnode-tests --bin bench

# A backup of MIB mebibytes and its restore: memory, rates beside a plain S3 client, the time until it serves again.
backup-trial: setup-test
	$(CARGO) build --release -p kvnode-server
	KVNODE_SERVER_BIN=$(SERVER) KVNODE_BACKUP_MIB=$(or $(MIB),2048) $(CARGO) test --release -p kvnode-operator --test backup -- \
	  memory_stays_flat --nocapture

clean:
	cargo clean

setup-build setup-test setup-bench setup-kube setup-chaos: setup-%:
	@sh tests/setup.sh $*
