/* The least that a sample can cost on Linux: the system calls and the number that is wanted, nothing else.
 *
 * Built at run time into a temporary directory (cc -O2 -shared -fPIC) and called through ctypes. Each function
 * takes its sample `times` times, from descriptors that are open already.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static volatile long sum; /* so that nothing is left out by the compiler */

/* The `field`-th number (from 0) of a line of numbers. */
static long number(const char *text, int field)
{
    char *end;
    while (field-- > 0) {
        text = strchr(text, ' ');
        if (!text)
            return 0;
        text++;
    }
    return strtol(text, &end, 10);
}

static long after(const char *text, const char *key)
{
    const char *at = strstr(text, key);
    return at ? strtol(at + strlen(key), NULL, 10) : 0;
}

static long get(int fd, char *text, size_t size)
{
    long got = pread(fd, text, size - 1, 0);
    text[got > 0 ? got : 0] = 0;
    return got;
}

/* Total and available memory of the machine. */
void machine_memory(int meminfo, int times)
{
    char text[128];
    while (times-- > 0) {
        get(meminfo, text, sizeof text);
        sum += after(text, "MemTotal:") + after(text, "MemAvailable:");
    }
}

/* The same, and the usage of a control group. */
void machine_and_group(int meminfo, int usage, int times)
{
    char text[128];
    while (times-- > 0) {
        machine_memory(meminfo, 1);
        get(usage, text, sizeof text);
        sum += number(text, 0);
    }
}

/* The resident size of one process. */
void resident(int statm, int times)
{
    char text[128];
    while (times-- > 0) {
        get(statm, text, sizeof text);
        sum += number(text, 1);
    }
}

/* A tree: what each member holds, and the children that it forked (a page of them at a time). */
void tree(const int *statm, const int *children, int members, int times)
{
    static char list[65536];
    while (times-- > 0)
        for (int each = 0; each < members; each++) {
            long from = 0, got;
            while ((got = pread(children[each], list, sizeof list, from)) > 0) {
                sum += list[0];
                from += got;
            }
            resident(statm[each], 1);
        }
}

/* A machine: the list of its processes, and what each of them holds. */
void machine(int proc, const int *statm, int processes, int times)
{
    static char list[65536];
    while (times-- > 0) {
        lseek(proc, 0, SEEK_SET);
        while (syscall(SYS_getdents64, proc, list, sizeof list) > 0)
            sum += list[0];
        for (int each = 0; each < processes; each++)
            resident(statm[each], 1);
    }
}
