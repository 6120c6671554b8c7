#!/usr/bin/env python3
"""What tests/bench_report.py makes of parts that ran, were left out, crashed or printed nothing.

    test_bench_report.py REPOSITORY"""

import contextlib
import importlib.util
import io
import json
import os
import sys
import tempfile
import unittest

ROOT = sys.argv.pop() if len(sys.argv) > 1 else "."
SPEC = importlib.util.spec_from_file_location("bench_report", f"{ROOT}/tests/bench_report.py")
bench_report = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench_report)

SHAPE = {"shape": "L1 C8 H1 F8 V8 B2 T5", "threads": 2, "parameters": 100, "trained": 100}
MATMUL = """table avx512, activations f32, 2 threads
product  W         T      N      K     FMA   read  ours                       OpenBLAS
forward  f32       1    768    768   200.0   20.0     12.0 GB/s     60.0%         -
forward  f32    1024    768    768   200.0    0.0    180.0 GFLOP/s  90.0%    100.0 GFLOP/s  50.0%
forward  f32    1024   3072    768   100.0    0.0     86.0 GFLOP/s  86.0%    100.0 GFLOP/s 100.0%
forward  f32    1024     16    768   200.0    0.0     20.0 GFLOP/s  10.0%    100.0 GFLOP/s  50.0%
grad x   f32    1024    768    768   200.0    0.0    160.0 GFLOP/s  80.0%    100.0 GFLOP/s  50.0%
grad w   f32    1024    768    768   200.0    0.0    180.0 GFLOP/s  90.0%    100.0 GFLOP/s  50.0%
forward  bf16   1024    768    768   200.0    0.0    250.0 GFLOP/s 125.0%
grad x   bf16   1024    768    768   200.0    0.0    250.0 GFLOP/s 125.0%
grad w   bf16   1024    768    768   200.0    0.0    180.0 GFLOP/s  90.0%
"""

SCALING = """strong scaling: global batch 4, sequences of 256
ranks  threads  layout    tokens/s  speedup  efficiency     MFU  compute  collective  bubble  run
    1        1  -           116.0     1.00      100.0%%   58.0%%   100.0%%        0.0%%    0.0%%  a/strong-1
    2        1  %s       %.1f     %.2f       93.0%%   54.0%%    96.5%%        2.5%%    0.9%%  a/strong-2
"""

PIPELINE = """schedule     stages microbatches  seconds  measured simulated    off   stages wait
gpipe             2            4    1.585    0.2164    0.2173    -0.4%   28.7% (28.6%) 17.8% (17.9%)
1f1b              2            8    1.612    0.1760    0.2000   -12.0%   28.4% (28.2%) 17.5% (17.9%)
"""


def train(seconds, **others):
    rate = 10 / sorted(seconds)[len(seconds) // 2]
    return {**SHAPE, "variant": "full", "step_seconds": seconds, "tokens_per_s": rate,
            "gflops": 12.0 * rate, "matmul_ratio": 0.9, "peak_gflops": 200.0, "cpu_share": 1.0,
            "instructions": "avx2", **others}


def peer(name, rate, **others):
    return {**SHAPE, "variant": name, "tokens_per_s": rate, "cpu_share": 1.0, **others}


def whole_run():
    """Output by part: fp32 is 1.2 over the best, 1.5 over eager, the server at 70%."""
    return {
        "matmul": MATMUL,
        "train_fp32_1": [train([1.0, 1.0, 9.0])],
        "torch_fp32": [peer("eager", 20 / 3), peer("compiled", 10 / 1.2)],
        "train_fp32_2": [train([1.0, 1.0, 9.0])],
        "train_lora_1": [train([1.0], matmul_ratio=0.83)],
        "torch_lora": [peer("lora", 8.0), peer("lora_compiled", 9.0)],
        "train_lora_2": [train([1.0], matmul_ratio=0.86)],
        "decode_1": [{"read_ratio": 0.849, "tok_per_s": 1.0, "read_gb_per_s": 20.0}],
        "peak_before_server": [{"fma_gflops": 1.0}],
        "serve": "concurrency=32 prompt=16 output=64 repeat=3 errors=0\n"
                 "output_tok_s=80.0 total_tok_s=100.0\n",
        "peak_after_server": [{"fma_gflops": 0.5}],
        "scaling_tp2": SCALING % ("tp2 ", 216.0, 1.86),
        "scaling_cp2": SCALING % ("cp2 ", 174.0, 1.50),
        "scaling_dp2": SCALING % ("dp2 x", 192.0, 1.66),
        "pipeline": PIPELINE,
        "tokenizer_base": "encode_mb_per_s=4.9 best=5.1 runs=3 tokens=1\n",
    }


class Report(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        config = {"hidden_size": 4, "num_attention_heads": 2, "num_key_value_heads": 1,
                  "intermediate_size": 5, "num_hidden_layers": 3, "vocab_size": 7}
        self.write("config.json", json.dumps(config))

    def write(self, name, text):
        with open(os.path.join(self.folder.name, name), "w") as file:
            file.write(text)

    def report(self, outputs, ended=()):
        """Exit status, the goals by their text, and the whole report."""
        ended = dict(ended)
        lines = []
        for name, output in outputs.items():
            if not isinstance(output, str):
                output = "".join(json.dumps(line) + "\n" for line in output)
            self.write(name + ".log", "noise before\n" + output)
            lines.append(f"{name}\t{ended.pop(name, 0)}\t7\n")
        lines += [f"{name}\t{how}\twhy\n" for name, how in ended.items()]
        self.write("parts.tsv", "".join(lines))
        sys.argv = ["bench_report.py", self.folder.name, "--model", self.folder.name, "--threads", "2",
                    "--started", "2026-01-02T03:04:05Z", "--seconds", "60"]
        self.printed = io.StringIO()
        with contextlib.redirect_stdout(self.printed), contextlib.redirect_stderr(io.StringIO()):
            status = bench_report.main()
        with open(os.path.join(self.folder.name, "report.json")) as file:
            report = json.load(file)
        return status, {row["goal"]: row for row in report["goals"]}, report

    def test_verdicts(self):
        status, goals, report = self.report(whole_run())
        best = goals["fp32 step over PyTorch at its best of the kind"]
        self.assertAlmostEqual(best["measured"], 1.2)
        self.assertEqual(best["verdict"], "met")
        self.assertIn("compiled", best["of"])
        eager = goals["fp32 step over PyTorch's eager default"]
        self.assertAlmostEqual(eager["measured"], 1.5)
        self.assertEqual(goals["decode, bf16, 1 sequence, of the read bandwidth"]["verdict"], "MISSED")
        self.assertEqual(goals["encoding by base, MB/s on one core"]["verdict"], "MISSED")
        tensor = goals["two ranks over one, tp2, a thread each, 160 M"]
        self.assertEqual((tensor["measured"], tensor["verdict"]), (1.86, "met"))
        self.assertIn("tp2: 216.0 / 116.0 tokens/s", tensor["of"])
        data = goals["two ranks over one, dp2, a thread each, 160 M"]
        self.assertEqual((data["measured"], data["verdict"]), (1.66, "MISSED"))
        bubble = goals["pipeline's bubble, of what its schedule gives"]
        self.assertAlmostEqual(bubble["measured"], 0.88)
        self.assertEqual(bubble["verdict"], "MISSED")
        self.assertIn("worst of 2: 1f1b, 2 stages, 8 microbatches", bubble["of"])
        self.assertEqual(status, 0, "a missed goal is no failure")
        for key, value in {"date": "2026-01-02T03:04:05Z", "threads": 2, "quick": False}.items():
            self.assertEqual(report[key], value)
        self.assertTrue(report["commit"] and report["cpu"])
        self.assertIn("MISSED", self.printed.getvalue())

    def test_median_over_the_steps_of_both_runs(self):
        run = whole_run()
        run["train_fp32_1"] = [train([1.0, 1.0, 1.0])]
        run["train_fp32_2"] = [train([2.0, 3.0, 4.0])]
        _, goals, report = self.report(run)
        best = goals["fp32 step over PyTorch at its best of the kind"]
        self.assertAlmostEqual(best["measured"], (10 / 1.5) / (10 / 1.2))
        self.assertEqual(best["verdict"], "MISSED")
        self.assertTrue(any("runs are 3.00 apart" in doubt for doubt in report["doubts"]))

    def test_products_bound_by_arithmetic_alone(self):
        _, _, report = self.report(whole_run())
        also = {row["goal"]: row for row in report["also"]}
        forward = also["forward alone, f32 weights, T 1024, of the FMA peak"]
        self.assertAlmostEqual(forward["measured"], 0.86)
        self.assertIn("worst of 2 shapes, 3072 x 768; best 90.0%; 2 at 85% or more", forward["of"])
        self.assertEqual((forward["target"], forward["verdict"]), (0.85, "met"))
        backward = also["grad x alone, f32 weights, T 1024, of the FMA peak"]
        self.assertAlmostEqual(backward["measured"], 0.8)
        self.assertEqual(backward["verdict"], "MISSED")
        pairs = also["forward alone, bf16 weights, T 1024, of the FMA peak"]
        self.assertEqual((pairs["measured"], pairs["verdict"]), (1.25, "met"))

    def test_products_of_a_step_are_the_goal(self):
        """A product alone that misses is told, and counts for nothing."""
        _, goals, report = self.report(whole_run())
        full = goals["products of the fp32 step, of the FMA peak"]
        self.assertEqual((full["measured"], full["target"], full["verdict"]), (0.9, 0.85, "met"))
        lora = goals["products of the LoRA fp32 step, of the FMA peak"]
        self.assertAlmostEqual(lora["measured"], 0.845)
        self.assertEqual(lora["verdict"], "MISSED")
        self.assertFalse([goal for goal in goals if "alone" in goal])
        missed = sum(row["verdict"] == "MISSED" for row in goals.values())
        self.assertIn(f", {missed} MISSED, ", self.printed.getvalue())

    def test_every_peer_has_its_share_of_the_peak(self):
        run = whole_run()
        run["train_fp32_2"] = [train([1.0, 1.0, 9.0], peak_gflops=240.0)]
        _, goals, report = self.report(run)
        also = {row["goal"]: row for row in report["also"]}
        for name, rate in {"eager": 20 / 3, "compiled": 10 / 1.2}.items():
            row = also[f"PyTorch's fp32 step, {name}, of the FMA peak"]
            self.assertAlmostEqual(row["measured"], rate * 12.0 / 240.0)
            self.assertIn("x 12.000 GFLOP", row["of"])
        self.assertAlmostEqual(also["whole fp32 step, of the FMA peak"]["measured"], 0.5)
        self.assertIn("50.0% / 41.7% of the FMA peak",
                      goals["fp32 step over PyTorch at its best of the kind"]["of"])
        self.assertEqual(also["PyTorch's LoRA fp32 step, lora_compiled, of the FMA peak"]["measured"],
                         9.0 * 12.0 / 200.0)
        self.assertEqual(also["PyTorch's bf16 step, bf16, of the FMA peak"]["verdict"], "not run")

    def test_the_server_is_the_goal(self):
        """Not what bench_decode makes of as many sequences without one."""
        _, goals, report = self.report({**whole_run(), "decode_32": [{
            "fma_ratio": 1.4, "tok_per_s": 9.0, "fma_gflops": 200.0}]})
        asked = [row for goal, row in goals.items() if "32 requests" in goal]
        self.assertEqual([row["target"] for row in asked], [0.65])
        self.assertIn("100.0 tokens/s in and out (80.0 out)", asked[0]["of"])
        self.assertFalse([goal for goal in goals if "32 sequences" in goal])
        lone = [row for row in report["also"] if row["goal"].startswith("decode, 32 sequences")]
        self.assertEqual([(row["measured"], row["target"]) for row in lone], [(1.4, None)])

    def test_context_parallel_speed_is_no_goal(self):
        _, goals, report = self.report(whole_run())
        row = [r for r in report["also"] if ", cp2, " in r["goal"]][0]
        self.assertEqual((row["measured"], row["verdict"]), (1.5, ""))
        self.assertIn("cp2: 174.0 / 116.0 tokens/s", row["of"])
        self.assertFalse([goal for goal in goals if "cp2" in goal])

    def test_more_than_the_ceiling_is_not_met(self):
        run = whole_run()
        for ratio, verdict in ((0.9, "met"), (1.25, "DOUBTED")):
            run["decode_1"][0]["read_ratio"] = ratio
            _, goals, _ = self.report(run)
            row = goals["decode, bf16, 1 sequence, of the read bandwidth"]
            self.assertEqual((row["measured"], row["verdict"]), (ratio, verdict))

    def test_bf16_pairs_may_reach_twice_the_peak(self):
        run = whole_run()
        for peak, verdict in ((6e-5, "met"), (3e-5, "DOUBTED")):
            run["peak_before_server"] = run["peak_after_server"] = [{"fma_gflops": peak}]
            _, goals, _ = self.report(run)
            row = goals["server, 32 requests of 16 in / 64 out, of the FMA peak"]
            self.assertEqual(row["verdict"], verdict)

    def test_server(self):
        # a layer: q and o 4 x 4, k and v 4 x 2, three of 4 x 5, two norms; a last norm; the head
        flops = 2 * (3 * (2 * 16 + 2 * 8 + 3 * 20 + 2 * 4) + 4) + 2 * 7 * 4
        _, goals, report = self.report(whole_run())
        row = goals["server, 32 requests of 16 in / 64 out, of the FMA peak"]
        self.assertAlmostEqual(row["measured"], 100.0 * flops / 1e9)  # of the better peak
        needed = [r for r in report["also"] if r["goal"].startswith("server")][0]
        self.assertAlmostEqual(needed["measured"], 100.0 * (79 * (flops - 56) + 64 * 56) / 80 / 1e9)

    def test_left_out_is_never_met(self):
        run = whole_run()
        del run["torch_fp32"]
        status, goals, _ = self.report(run, {"torch_fp32": "left out", "tokenizers": "left out"})
        row = goals["fp32 step over PyTorch at its best of the kind"]
        self.assertEqual((row["verdict"], row["measured"], row["of"]), ("not run", None, "why"))
        self.assertEqual(goals["encoding by other models' tokenizers"]["verdict"], "not run")
        self.assertEqual(goals["bf16 step over PyTorch's eager default"]["verdict"], "not run")
        self.assertEqual(status, 0)

    def test_a_crash_is_a_failure(self):
        status, goals, _ = self.report(whole_run(), {"decode_1": 139})
        row = goals["decode, bf16, 1 sequence, of the read bandwidth"]
        self.assertEqual((row["verdict"], row["measured"]), ("CRASHED", None))
        self.assertEqual(status, 1)
        status, _, _ = self.report(whole_run(), {"ops": 1})  # no goal hangs on it
        self.assertEqual(status, 1)

    def test_no_figure_is_a_failure(self):
        for name, output in (("decode_1", ""), ("decode_1", '{"read_ra\n'), ("matmul", "table\n"),
                             ("serve", "errors=0\n"), ("tokenizer_base", ""),
                             ("decode_1", [{"read_gb_per_s": 1.0}])):
            with self.subTest(part=name, output=output):
                status, _, _ = self.report({**whole_run(), name: output})
                self.assertEqual(status, 1)

    def test_peer_did_something_else(self):
        for key, value in {"shape": "L2", "threads": 1, "parameters": 99, "trained": 1}.items():
            with self.subTest(key=key):
                run = whole_run()
                run["torch_fp32"] = [peer("eager", 1.0, **{key: value})]
                status, goals, _ = self.report(run)
                row = goals["fp32 step over PyTorch at its best of the kind"]
                self.assertEqual(row["verdict"], "CRASHED")
                self.assertIn(key, row["of"])
                self.assertEqual(status, 1)

    def test_busy_machine_is_said(self):
        run = whole_run()
        run["torch_fp32"] = [peer("eager", 1.0, cpu_share=0.5)]
        _, _, report = self.report(run)
        self.assertTrue(any("torch_fp32" in doubt and "50%" in doubt for doubt in report["doubts"]))


if __name__ == "__main__":
    unittest.main()
