#!/usr/bin/env bash
# kill -9 of either of two ranks inside a save, at each kind of call that it makes (half of a write, a
# sync, a rename, the removal of what is old), whether training waits for the save or not: what is left
# is the checkpoint before or this one, whole by its hashes, and the run goes on from it to the same
# losses, to the last digit.
#
#   test_train_kills.sh STRATA MAKE_TOKENS INTERPOSE_CALLS
#
# STRATA_SOAK=1 makes 50 trials, whose kills are spread over all calls of the save, instead of 4.
strata=$1 make_tokens=$2 interpose=$3
. tests/train_common.sh
soak=${STRATA_SOAK:+yes}
killed=0 olds=0 news=0

"$make_tokens" "$folder/train.h5" 30 30 || exit 1
cat >"$folder/run.yaml" <<YAML
model: {path: tests/fixtures/llama}
data: {train: [$folder/train.h5], sequence_length: 24}
train: {steps: 9, global_batch: 4, lr: 1e-3, warmup: 1, checkpoint_every: 3, keep: 1, threads: 1, export: false}
parallel: {zero: 1} # so that both ranks have something to write
YAML
run() { # OUT ASYNC
    ranks 2 "$strata" train "$folder/run.yaml" train.out="$1" train.checkpoint_async="$2"
}

# calls RANK LOG: those of the rank's second save, from its first file to the beginning of the third,
# as lines "number call". Rank 0's begins with the folder.
calls() {
    awk -v rank="$1" '
        $1 != rank {next}
        rank == 0 && $3 == "mkdir" && $4 ~ /\/step-[0-9]+$/ {save++}
        rank != 0 && $3 == "create" && $4 ~ /\/rank-[0-9]+\.h5$/ {save++}
        save == 2 {print $2, $3}' "$2"
}

# spread COUNT: as many of the input's lines, evenly; syncs, renames and the like before writes, which
# are most of them.
spread() {
    sort -s -k2,2 | awk -v count="$1" '
        $2 == "write" {writes[w++] = $1; next}
        {others[o++] = $1}
        END {
            take = o < count * 0.6 ? o : int(count * 0.6)
            for (i = 0; i < take; i++) print others[int((i + 0.5) * o / take)]
            for (i = 0; i < count - take && i < w; i++) print writes[int((i + 0.5) * w / (count - take))]
        }'
}

trial() { # ASYNC RANK NUMBER
    local out=$folder/killed step
    rm -rf "$out" "$folder/kill"
    (export STRATA_TEST_KILL_AT=$2,$3 STRATA_TEST_CALL_LOG=$folder/kill LD_PRELOAD=$interpose
     run "$out" "$1") >"$folder/log" 2>&1 && fail "async $1: alive after call $3 of rank $2"
    [ "$(wc -l <"$folder/kill")" -eq 1 ] || { cat "$folder/log"; fail "no kill at call $3 of rank $2"; }
    killed=$((killed + 1))
    (run "$out" "$1") >"$folder/log" 2>&1 || { cat "$folder/log"; fail "async $1: no end after $2,$3"; }
    step=$(sed -n 's/.*event=resume step=\([0-9]*\) .*/\1/p' "$folder/log")
    case $step in
    3) olds=$((olds + 1)) ;;
    6) news=$((news + 1)) ;;
    *) cat "$folder/log"; fail "async $1: went on from '$step', killed at $(cat "$folder/kill")" ;;
    esac
    grep -q event=checkpoint_skipped "$folder/log" && { cat "$folder/log"; fail "half a checkpoint was seen"; }
    compgen -G "$out/checkpoints/.tmp-*" >/dev/null && fail "left over: $(ls -a "$out/checkpoints")"
    losses "$out" >"$folder/got"
    cmp -s "$folder/want" "$folder/got" || { diff "$folder/want" "$folder/got"; fail "other losses"; }
    echo "async=$1 killed: rank $(sed "s|$out/checkpoints/||" "$folder/kill"); went on from step $step"
}

(run "$folder/whole" true) 2>"$folder/log" || { cat "$folder/log"; exit 1; }
losses "$folder/whole" >"$folder/want"
[ "$(wc -l <"$folder/want")" -eq 9 ] || fail "not 9 lines: $(cat "$folder/want")"
for async in true false; do
    rm -rf "$folder/counted" "$folder/calls"
    (export STRATA_TEST_CALL_LOG=$folder/calls LD_PRELOAD=$interpose; run "$folder/counted" $async) \
        2>"$folder/log" || { cat "$folder/log"; fail "counted"; }
    for rank in 0 1; do
        calls $rank "$folder/calls" >"$folder/save"
        echo "async=$async rank=$rank: $(cut -d' ' -f2 "$folder/save" | sort | uniq -c | tr -s ' \n' ' ')"
        for kind in write sync; do
            grep -q $kind "$folder/save" || fail "rank $rank makes no $kind"
        done
        if [ -n "$soak" ]; then
            points=$(spread $((rank ? 10 : 15)) <"$folder/save")
        elif [ $rank -eq 1 ]; then
            points=$(spread 2 <"$folder/save" | if $async; then tail -n 1; else head -n 1; fi)
        else # the name, or what is removed once it is there
            points=$(grep "$($async && echo rename || echo remove)" "$folder/save" | sed -n '2s/ .*//p')
        fi
        for point in $points; do trial $async $rank "$point"; done
    done
done
echo "$killed kills inside a save: $olds runs went on from the checkpoint before, $news from this one"
[ $killed -eq $((${STRATA_SOAK:-0} ? 50 : 4)) ] || fail "$killed kills"
[ $olds -gt 0 ] && [ $news -gt 0 ] || fail "all kills came before, or all after the rename"
exit $((failures > 0))
