#!/usr/bin/env python3
"""The compile-time gate of CUDA kernels, for machines without a GPU.

    gpu_gate.py RULES KEPT ARCHITECTURES SOURCE... [ARCHITECTURES SOURCE...]

KEPT is the folder where the build left, for every SOURCE (name.cu), what nvcc --keep keeps and, as
name.log, what it said (cmake/nvcc_logged.sh). ARCHITECTURES is a comma-separated list (sm_80,sm_90a)
of what the sources behind it are built for.

It fails on
  - a note of ptxas numbered C75xx (wgmma made slow, setmaxnreg ignored) that RULES doesn't allow;
  - a kernel with a stack frame, spills or local memory that RULES doesn't allow, with a reason;
  - a kernel whose instructions are not those that RULES say;
  - a rule that no kernel answers to, and a log or cubin that is missing or older than its source;
  - compilation of more than 1200 CPU seconds in all: 10 minutes on 2 cores.

RULES (tests/gpu_gate.txt) has a line a rule, `#` begins a comment:
  opcodes KERNEL ARCHITECTURE NAME>=COUNT ...   (also =, <=) of every instantiation of the kernel
  stack   KERNEL ARCHITECTURE BYTES reason      at most BYTES of stack frame and of spills
  note    KERNEL ARCHITECTURE C75xx reason      a note that names the kernel
KERNEL is the function's name without its arguments; ARCHITECTURE one of the list, or * for each.
"""
import collections
import os
import re
import struct
import sys

# The low 12 bits of each 16-byte instruction word; seen in what ptxas 13.0 makes for sm_80 and sm_90a.
OPCODES = {
    'HGMMA_SS': {0x9f0}, 'HGMMA_RS': {0xdf0}, 'HGMMA': {0x9f0, 0xdf0}, 'HMMA': {0x23c},
    'LDSM': {0x83b}, 'LDGSTS': {0xfae}, 'UTMALDG': {0x5b4}, 'UTMALDG_MULTICAST': {0x3b4},
    'UTMASTG': {0x3b5}, 'UTMAREDG': {0x3b6}, 'UBLKCP': {0x3ba}, 'UBLKRED': {0x3bb},
    'USETMAXREG': {0x9c8}, 'LDL': {0x983}, 'STL': {0x387},
}
SYMBOLS = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
SECONDS = re.compile(r'compiled in ([\d.]+) \+ ([\d.]+) CPU seconds')
MOST_SECONDS = 1200
FRAME = re.compile(r'(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads')


def kernel_name(symbol):
    """The plain name in a mangled one: its only identifier, or the last of a nested name (_ZN...)."""
    found = re.match(r'_Z([NL]?)', symbol)
    if not found:
        return symbol
    at, name = found.end(), symbol
    while (digits := re.match(r'\d+', symbol[at:])):
        begin = at + len(digits.group())
        at = begin + int(digits.group())
        name = symbol[begin:at]
        if found.group(1) != 'N':
            break
    return name


def read_log(path):
    """{(symbol, architecture): (stack, spill stores, spill loads)}, the notes as (code, symbol or None,
    line), and the CPU seconds of the compilation."""
    frames, notes, entry, seconds = {}, [], None, 0.0
    for line in open(path, errors='replace'):
        if code := re.search(r'\((C75\d\d)\)', line):
            symbol = re.search(r"function '(\S+)'", line)
            notes.append((code.group(1), symbol and symbol.group(1), line.strip()))
        if found := SECONDS.search(line):
            seconds = sum(map(float, found.groups()))
        elif found := SYMBOLS.search(line):
            entry = found.groups()
        elif (found := FRAME.search(line)) and entry:
            frames[entry] = tuple(map(int, found.groups()))
    return frames, notes, seconds


def read_cubin(path):
    """{symbol: Counter of opcodes} of an ELF file for a GPU."""
    data = open(path, 'rb').read()
    if data[:4] != b'\x7fELF':
        raise ValueError(f'{path} is not an ELF file')
    table, = struct.unpack_from('<Q', data, 0x28)
    count, names = struct.unpack_from('<HH', data, 0x3c)
    sections = [struct.unpack_from('<IIQQQQIIQQ', data, table + 64 * i) for i in range(count)]
    kernels = {}
    for name, _, _, _, offset, size, *_ in sections:
        begin = sections[names][4] + name
        text = data[begin:data.index(b'\0', begin)].decode()
        if text.startswith('.text.'):
            kernels[text[len('.text.'):]] = collections.Counter(
                struct.unpack_from('<H', data, offset + i)[0] & 0xfff for i in range(0, size, 16))
    return kernels


def read_rules(path):
    rules = []
    for number, line in enumerate(open(path), 1):
        words = line.split('#')[0].split()
        if not words:
            continue
        if words[0] not in ('opcodes', 'stack', 'note') or len(words) < 4:
            sys.exit(f'{path}:{number}: not a rule: {line.strip()}')
        if words[0] != 'opcodes' and len(words) < 5:
            sys.exit(f'{path}:{number}: no reason is given')
        rules.append({'at': f'{path}:{number}', 'kind': words[0], 'kernel': words[1],
                      'architecture': words[2], 'words': words[3:], 'used': False})
    return rules


def applies(rule, kind, kernel, architecture):
    fits = rule['kind'] == kind and rule['kernel'] == kernel
    if fits and rule['architecture'] in ('*', architecture):
        rule['used'] = True
        return True
    return False


def check_frame(rules, kernel, architecture, frame):
    allowed = max([int(rule['words'][0]) for rule in rules
                   if applies(rule, 'stack', kernel, architecture)], default=0)
    if max(frame) > allowed:
        return [f'{frame[0]} bytes of stack, {frame[1]} of spill stores, {frame[2]} of spill loads '
                f'({allowed} allowed)']
    return []


def check_notes(rules, architectures, notes):
    wrong = []
    for code, symbol, line in notes:
        kernel = kernel_name(symbol) if symbol else None
        if not any(rule['words'][0] == code and applies(rule, 'note', kernel, architecture)
                   for rule in rules for architecture in architectures):
            wrong.append(line)
    return wrong


def check_opcodes(rules, kernel, architecture, counts):
    wrong = []
    for rule in rules:
        if not applies(rule, 'opcodes', kernel, architecture):
            continue
        for word in rule['words']:
            found = re.fullmatch(r'(\w+)(>=|<=|=)(\d+)', word)
            if not found or found.group(1) not in OPCODES:
                sys.exit(f"{rule['at']}: not a count of a known instruction: {word}")
            name, relation, want = found.group(1), found.group(2), int(found.group(3))
            have = sum(counts[code] for code in OPCODES[name])
            if not {'>=': have >= want, '<=': have <= want, '=': have == want}[relation]:
                wrong.append(f"{have} {name}, where {word} is asked for ({rule['at']})")
    return wrong


def kept_cubin(kept, stem, architecture, alone):
    """nvcc calls it so where its PTX is embedded too, where it isn't, and where there is no other."""
    compute = architecture.replace('sm_', 'compute_')
    names = [f'{stem}.{compute}.{architecture}.cubin', f'{stem}.{compute}.cubin']
    for name in names + [f'{stem}.cubin'] * alone:
        if os.path.exists(os.path.join(kept, name)):
            return os.path.join(kept, name)
    return None


def check_source(rules, kept, source, architectures, shown):
    stem = os.path.splitext(os.path.basename(source))[0]
    log = os.path.join(kept, stem + '.log')
    if not os.path.exists(log) or os.path.getmtime(log) < os.path.getmtime(source):
        return [f'{source}: its log {log} is missing or older: build first']
    frames, notes, seconds = read_log(log)
    shown['seconds'] += seconds
    wrong = [f'{source}: {line}' for line in check_notes(rules, architectures, notes)]
    for architecture in architectures:
        cubin = kept_cubin(kept, stem, architecture, len(architectures) == 1)
        if not cubin or os.path.getmtime(cubin) < os.path.getmtime(source):
            wrong.append(f'{source}: its cubin for {architecture} is missing or older: build first')
            continue
        for symbol, counts in read_cubin(cubin).items():
            kernel, frame = kernel_name(symbol), frames.get((symbol, architecture))
            if frame is None:
                continue  # a device function, which its callers' frames include
            found = check_frame(rules, kernel, architecture, frame)
            found += check_opcodes(rules, kernel, architecture, counts)
            wrong += [f'{source}: {kernel} ({symbol}) for {architecture}: {text}' for text in found]
            shown[architecture] += 1
    return wrong


def main():
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    rules, kept, architectures = read_rules(sys.argv[1]), sys.argv[2], []
    wrong, shown = [], collections.Counter()
    for argument in sys.argv[3:]:
        if argument.startswith('sm_'):
            architectures = argument.split(',')
        else:
            wrong += check_source(rules, kept, argument, architectures, shown)
    wrong += [f"{rule['at']}: no kernel {rule['kernel']} for {rule['architecture']}"
              for rule in rules if not rule['used']]
    seconds = shown.pop('seconds', 0)
    if seconds > MOST_SECONDS:
        wrong.append(f'{seconds:.0f} CPU seconds of compilation, not {MOST_SECONDS}')
    for line in wrong:
        print(f'FAILED: {line}')
    print(', '.join(f'{count} kernels for {name}' for name, count in sorted(shown.items())),
          f'in {seconds:.0f} CPU seconds')
    sys.exit(1 if wrong else 0)


main()
