"""NVIDIA's management library as a real shared object, for machines without a card.

It answers from a file that the test writes and rewrites: ``init CODE``, then a line ``NAME TOTAL USED CODE`` for each
card. What is not 0 as a code is the error of that number. It has the calls and the layouts that the package
``nvidia-ml-py`` uses, and nothing else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

COMPILER = shutil.which("cc")

_SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { char name[64]; unsigned long long total, used; int code; } card_t;
static card_t cards[16];
static int count, init_code, sessions, opened;

static int load(void) {
    FILE *file = fopen(getenv("FAKE_NVML"), "r");
    count = 0; init_code = 9;
    if (!file) return init_code;
    if (fscanf(file, "init %d", &init_code) != 1) init_code = 999;
    while (count < 16 && fscanf(file, "%63s %llu %llu %d", cards[count].name, &cards[count].total,
                                &cards[count].used, &cards[count].code) == 4) count++;
    fclose(file);
    return init_code;
}
static int card(void *handle, card_t **found) {
    size_t index = (size_t)handle % 1000 - 1;
    if (!sessions) return 1;
    if ((size_t)handle / 1000 != (size_t)opened) return 2;  /* a handle of another session */
    load();
    if (index >= (size_t)count) return 15;
    *found = &cards[index];
    return cards[index].code;
}
int nvmlInitWithFlags(unsigned flags) {
    int code = load();
    (void)flags;
    if (!code) { sessions++; opened++; }
    return code;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { if (!sessions) return 1; sessions--; return 0; }
const char *nvmlErrorString(int code) {
    switch (code) {
    case 1: return "Uninitialized";
    case 2: return "Invalid Argument";
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    default: return "Unknown Error";
    }
}
int nvmlDeviceGetCount_v2(unsigned *found) { if (!sessions) return 1; load(); *found = count; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    if (!sessions) return 1;
    load();
    if (index >= (unsigned)count) return 2;
    if (cards[index].code == 15) return 15;
    *handle = (void *)((size_t)opened * 1000 + index + 1);
    return 0;
}
int nvmlDeviceGetName(void *handle, char *text, unsigned size) {
    card_t *found; int code = card(handle, &found);
    if (!code || code == 3) snprintf(text, size, "%s", found->name);
    return code == 3 ? 0 : code;
}
int nvmlDeviceGetUUID(void *handle, char *text, unsigned size) {
    card_t *found; int code = card(handle, &found);
    snprintf(text, size, "GPU-%zu", (size_t)handle % 1000 - 1);
    return code == 3 ? 0 : code;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    card_t *found; int code = card(handle, &found);
    if (code) return code;
    memory->total = found->total; memory->used = found->used; memory->free = found->total - found->used;
    return 0;
}
"""


class FakeNvml:
    """The library in a folder, and what it answers."""

    def __init__(self, folder: Path) -> None:
        assert COMPILER is not None
        self._state = folder / "cards"
        self._folder = folder / "lib"
        self._folder.mkdir()
        (folder / "nvml.c").write_text(_SOURCE, encoding="utf-8")
        self.library = self._folder / "libnvidia-ml.so.1"
        command = [COMPILER, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wl,-soname,libnvidia-ml.so.1"]
        subprocess.run([*command, "-o", str(self.library), str(folder / "nvml.c")], check=True)
        self.set()

    def set(self, *cards: tuple[str, int, int, int], init: int = 0) -> None:
        """Answer so from now on: (name, total, used, error code) for each card."""
        lines = [f"init {init}", *(" ".join(map(str, card)) for card in cards)]
        scratch = self._state.with_suffix(".new")
        scratch.write_text("\n".join(lines) + "\n", encoding="utf-8")
        scratch.replace(self._state)  # a reader meanwhile finds the old or the new

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to find it, beside what it has."""
        return {**os.environ, "LD_LIBRARY_PATH": str(self._folder), "FAKE_NVML": str(self._state)}
