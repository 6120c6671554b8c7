#!/bin/sh
# Makes the references afresh with PyTorch, transformers and PEFT, compares them with the committed
# fixtures, and holds build/strata against them. The last line is 'N passed, N failed'.
#
#   tests/peers/run.sh            all of it
#   tests/peers/run.sh fixtures   only makes and compares the fixtures
#   tests/peers/run.sh update     makes them and puts them in the place of the committed ones
#   tests/peers/run.sh check_eval check_train ...   only these scripts, without making fixtures
#
# .venv and build/peers are made in the root; .venv is reused while requirements.txt is unchanged.
set -eu
cd "$(dirname "$0")/../.."
here=tests/peers
made=build/peers
python=.venv/bin/python
scripts="check_eval check_train check_schedule check_qlora check_adapter check_convert check_tokenizer check_serve check_monitors"
export HF_HUB_OFFLINE=1 TQDM_DISABLE=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

install_packages() {
    cmp -s $here/requirements.txt .venv/requirements.txt && return
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        echo "run.sh: python3 cannot make virtual environments; install python3-venv" >&2
        exit 1
    fi
    echo "installing $here/requirements.txt into .venv (about 6 GB)"
    python3 -m venv --clear .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r $here/requirements.txt
    cp $here/requirements.txt .venv/requirements.txt
}

make_fixtures() {
    rm -rf $made/fixtures
    $python $here/make_fixtures.py $made/fixtures
}

# Runs each script; one that ends without its last line counts as one more failure.
run_scripts() {
    mkdir -p $made
    : >$made/log
    for script in "$@"; do
        echo "== $script"
        $python $here/"$script".py >$made/output 2>&1 || true
        cat $made/output
        if ! tail -n 1 $made/output | grep -qE '^[0-9]+ passed, [0-9]+ failed$'; then
            echo "FAIL  $script: ended early" | tee -a $made/output
            echo "0 passed, 1 failed" >>$made/output
        fi
        tail -n 1 $made/output >>$made/log
    done
    echo "== all"
    awk '{ passed += $1; failed += $3 } END { printf "%d passed, %d failed\n", passed, failed
        exit failed > 0 || passed == 0 }' $made/log
}

install_packages
case "${1:-}" in
"")
    make_fixtures
    # shellcheck disable=SC2086
    run_scripts compare_fixtures $scripts
    ;;
fixtures)
    make_fixtures
    run_scripts compare_fixtures
    ;;
update)
    make_fixtures
    mkdir -p tests/fixtures
    for directory in "$made"/fixtures/*; do
        rm -rf "tests/fixtures/$(basename "$directory")"
        cp -r "$directory" tests/fixtures/
    done
    ;;
*)
    run_scripts "$@"
    ;;
esac
