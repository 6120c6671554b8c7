# The front door. CMake does the work; these are the words for it.
BUILD  ?= build
JOBS   ?= $(shell nproc)
export OMPI_ALLOW_RUN_AS_ROOT = 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = 1

.PHONY: all asan-build help build program deps deps-slurm demo test soak peers bench format format-check asan tsan coverage fuzz clean

all: build

# A target and what it is for: the words behind ## on its line.
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Debian's packages, by name; asks for root only when one is missing.
PACKAGES = git make build-essential cmake ninja-build pkg-config openmpi-bin libopenmpi-dev libhdf5-dev \
  hdf5-tools libmicrohttpd-dev libjansson-dev libpcre2-dev libutf8proc-dev libyaml-dev libxxhash-dev \
  libcurl4-openssl-dev libcmocka-dev libopenblas-dev libdnnl-dev clang clang-format \
  libclang-rt-14-dev curl iproute2 jq python3 python3-venv
deps: ## install the Debian packages that are missing
	@missing=$$(dpkg-query -W -f '$${Package} $${Status}\n' $(PACKAGES) 2>/dev/null | \
	  awk '/install ok installed/ {have[$$1] = 1} END {split("$(PACKAGES)", want, " "); \
	    for (i in want) if (!have[want[i]]) print want[i]}'); \
	if [ -n "$$missing" ]; then \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  echo "installing:" $$missing; \
	  $$sudo apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $$missing; \
	fi

# Slurm's daemons, for the test that starts a cluster of two nodes of its own (as root). Nothing else
# needs them on this machine, and none is left running.
deps-slurm: ## install what the test of jobs under Slurm needs (it is skipped without)
	@$(MAKE) --no-print-directory deps PACKAGES="slurmctld slurmd slurm-client munge shellcheck"

$(BUILD)/build.ninja: CMakeLists.txt
	@cmake -S . -B $(BUILD) -G Ninja $(CMAKE_FLAGS) > $(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@mv $(BUILD).log $(BUILD)/configure.log

build: deps ## build/strata and the tests; what plain `make` does
	@$(MAKE) --no-print-directory $(BUILD)/build.ninja
	cmake --build $(BUILD) -j $(JOBS)

program: deps ## build/strata alone
	@$(MAKE) --no-print-directory $(BUILD)/build.ninja
	cmake --build $(BUILD) -j $(JOBS) --target strata

# LoRA fine-tuning of the bundled model on two ranks, evaluation, serving, a question by HTTP.
demo: program ## fine-tune the bundled model on two ranks, evaluate it, serve it, ask it
	configs/demo/run.sh

test: build ## every test (minutes); BUILD=DIR and JOBS=N choose folder and processes
	ctest --test-dir $(BUILD) -j $(JOBS) --output-on-failure
	@tests/skipped.sh $(BUILD)

# Trials by the dozen; hours of nothing else should need this more than once.
soak: build asan-build ## the tests with trials by the dozen (hours)
	STRATA_SOAK=1 ctest --test-dir $(BUILD) --output-on-failure --timeout 3600
	ctest --test-dir build-asan -R '$(ASAN_LATER)' --output-on-failure --timeout 3600

# A virtual environment with PyTorch, transformers and PEFT; references made afresh and compared.
peers: build ## compare with PyTorch, transformers and PEFT in a virtual environment
	tests/peers/run.sh

bench: build ## the speed goals against PyTorch and this machine's ceilings (35 minutes)
	tests/bench.sh $(BUILD)

format: ## clang-format all of our C
	git ls-files '*.c' '*.h' '*.cu' '*.cc' | xargs clang-format -i

format-check: ## fail where clang-format would change something
	git ls-files '*.c' '*.h' '*.cu' '*.cc' | xargs clang-format --dry-run --Werror

# The tests under sanitizers. OpenMP's runtime is not instrumented, so threads are checked at one
# OpenMP thread a process (a conversion takes more: serve_gguf is left out): what TSan then sees are
# our own threads: the server's, those that write checkpoints, readers of a rank's ring of calls.
#
# Under AddressSanitizer a start of the program takes a second and a step ten times as long: what starts
# it by the dozen, or compares many layouts, is left to `make soak`.
ASAN_LATER = ^(train_(eval|scaling|resume|errors|rewind|deterministic|hang|kills|plan_command|pipeline_np2|nccl_np2)|train_.*_np[348]|parallel_(hang|link|nccl_np[34]))$$
asan-build: deps ## what `make asan` runs
	cmake --preset asan > /dev/null
	cmake --build build-asan -j $(JOBS)
asan: asan-build ## the tests under AddressSanitizer and UndefinedBehaviorSanitizer
	ctest --test-dir build-asan -j $(JOBS) -E '$(ASAN_LATER)' --output-on-failure
	@tests/skipped.sh build-asan
tsan: deps ## tests of what has threads of its own under ThreadSanitizer
	cmake --preset tsan > /dev/null
	cmake --build build-tsan -j $(JOBS)
	ctest --test-dir build-tsan -R '^(serve|parallel_(ring|saving|watch_link)$$)' -E '^serve_gguf$$' --output-on-failure
	@tests/skipped.sh build-tsan

# Which lines the tests reach, a folder a line; TESTS='^core_' runs those alone.
TESTS ?= .
coverage: deps ## the share of lines that TESTS (all) reach, by folder
	cmake --preset coverage > /dev/null
	cmake --build build-coverage -j $(JOBS)
	find build-coverage -name '*.gcda' -delete
	ctest --test-dir build-coverage -j $(JOBS) -R '$(TESTS)' --output-on-failure
	@tests/coverage.py build-coverage

# Every libFuzzer target for FUZZ_SECONDS.
FUZZ_SECONDS ?= 60
fuzz: deps ## every libFuzzer target for FUZZ_SECONDS (60)
	tests/fuzz/run.sh $(FUZZ_SECONDS)

clean: ## remove what was built
	rm -rf $(BUILD) build-asan build-tsan build-coverage build-fuzz
