/*
 * A plugin for QEMU's TCG that counts executed instructions: per CPU and exception level (aarch64), or per CPU inside
 * and outside of a guest (x86_64).
 *
 *   -plugin count.so,out=FILE
 *
 * Software under test marks a moment by the instruction `hint #N` on aarch64, `nop dword ptr [rax + N]` on x86_64, N from
 * 96 to 127: what the architecture leaves to be no operation, and everybody may execute. Each mark, the first instruction
 * at EL1, and the end append a line of JSON to FILE:
 *
 *   {"mark": 96, "cpu": 1, "cpus": [{"el": [EL0, EL1, EL2, EL3], "eret": N, "wfi": N, "spin": N}, ...]}
 *
 * "mark" is "guest" for the first instruction at EL1, and for the first that is new there after mark 100, by which a program is started that
 * runs a guest; and "end" at QEMU's end. "el" has instructions executed, one that
 * faults and is repeated counts twice; "eret" has the returns from EL2, which are the exits of a guest; "wfi" the
 * waits at EL0 and EL1; "spin" what loops that wait for a lock execute once a round at EL2: WFE on aarch64, PAUSE on x86_64. On x86_64 what a guest executes (between VMRUN and #VMEXIT) counts as EL1, all else as EL2, VMRUN
 * as a return, and an exit for HLT as a wait: a guest that waits without one isn't counted there. Each CPU must have a thread
 * of its own there, which isn't so with -icount.
 *
 * With -icount one thread executes all CPUs, one after the other, and of these QEMU tells plugins apart wrongly: with single=on, which is for
 * that and for aarch64 only, what they have executed together is told as the first one's, and the others have 0.
 *
 * With profile=EL:FROM:TO the addresses that executed most at that level between two marks, or from the start where
 * FROM is 0, follow at the end:
 *
 *   {"address": "0x40212345", "count": N}
 *
 * Build: cc -shared -fPIC -O2 -o count.so count.c. What is used of QEMU's interface (docs/devel/tcg-plugins.rst) is
 * declared here, since Debian has no package of its header. Interface version 3, which QEMU 9.1 brought, or 7 of QEMU
 * 11.1, which passes other arguments: with -DINTERFACE=7.
 */

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef INTERFACE
#define INTERFACE 3
#endif

/* Of QEMU and of GLib, which QEMU brings. */
#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
/* Its beginning, which is all that is looked at. */
typedef struct { const char *target; } qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_register;
struct qemu_plugin_scoreboard;
typedef struct { struct qemu_plugin_scoreboard *score; size_t offset; } qemu_plugin_u64;
typedef struct {
    struct qemu_plugin_register *handle;
    const char *name, *feature;
#if INTERFACE >= 7
    bool is_readonly;
#endif
} qemu_plugin_reg_descriptor;
typedef struct { char *data; unsigned len; } GArray;
typedef struct { uint8_t *data; unsigned len; } GByteArray;
enum { NO_REGISTERS, READS_REGISTERS };
enum { INLINE_ADD };

typedef void (*vcpu_data_cb)(unsigned cpu, void *data);
#if INTERFACE >= 7
typedef void (*trans_cb)(struct qemu_plugin_tb *block, void *data);
void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t, vcpu_data_cb, void *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, trans_cb, void *);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(void *), void *);
#else
typedef void (*trans_cb)(qemu_plugin_id_t id, struct qemu_plugin_tb *block);
typedef void (*vcpu_cb)(qemu_plugin_id_t id, unsigned cpu);
void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t, vcpu_cb);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, trans_cb);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
#endif
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, vcpu_data_cb, int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(struct qemu_plugin_insn *, int op, qemu_plugin_u64, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t);
uint64_t qemu_plugin_u64_get(qemu_plugin_u64, unsigned cpu);
void qemu_plugin_u64_add(qemu_plugin_u64, unsigned cpu, uint64_t);
int qemu_plugin_read_memory_hwaddr(uint64_t, GByteArray *, size_t);
int qemu_plugin_num_vcpus(void);
GArray *qemu_plugin_get_registers(void);
int qemu_plugin_read_register(struct qemu_plugin_register *, GByteArray *);
GArray *g_array_free(GArray *, int);
GByteArray *g_byte_array_new(void);
GByteArray *g_byte_array_free(GByteArray *, int);

EXPORT int qemu_plugin_version = INTERFACE;

/* Opcodes (Arm ARM C6.2). */
#define HINT 0xd503201fu
#define HINT_MASK 0xfffff01fu
#define HINT_NUMBER(opcode) ((opcode) >> 5 & 0x7f)
#define WFI 0xd503207fu
#define WFE 0xd503205fu
#define ERET 0xd69f03e0u
#define ERETAA 0xd69f0bffu
#define ERETAB 0xd69f0fffu
/* AMD64 APM 2 and 3: VMRUN, HLT, CLI, NOP with a byte of displacement, and PAUSE. */
static const uint8_t VMRUN[] = { 0x0f, 0x01, 0xd8 }, NOP[] = { 0x0f, 0x1f, 0x40 }, PAUSE[] = { 0xf3, 0x90 };
enum { CLI = 0xfa, X86_LONGEST = 15 };
/* Where a VMCB has EXITCODE (APM 2, appendix B), and that of HLT (appendix C). */
enum { EXIT_CODE = 0x70, EXIT_HLT = 0x78 };
enum { FIRST_MARK = 96, LAST_MARK = 127, SHOWN = 4000 };
/* With this mark a program is about to be started that will enter a guest: the next one that is seen. */
enum { LAUNCH = 100 };
/* Inside of a guest, and outside. */
enum { GUEST = 1, HYPERVISOR = 2 };

struct counts { uint64_t el[4], eret, wfi, spin; };

static struct qemu_plugin_scoreboard *board;
/* One thread executes all CPUs, and this is what they have executed. */
static bool single;
static struct counts together;
/* PSTATE; rAX. */
static struct qemu_plugin_register *pstate, *rax;
static FILE *out;
static bool guest_seen;
static bool is_x86;
/* x86_64: whether the thread's CPU is in a guest, and where it comes out of it. Each CPU has a thread of its own. */
static __thread bool in_guest;
static uint64_t behind_vmrun;
/* CPUs translate in parallel. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The profile: a counter for each address of the level, found by hashing. */
struct place { uint64_t address, count; };
enum { PLACES = 1 << 20 };
static int profiled = -1;
static unsigned profile_from, profile_to;
static struct place *places;
static struct qemu_plugin_scoreboard *place_board;
static uint64_t *places_together;

static qemu_plugin_u64 counter(size_t offset)
{
    return (qemu_plugin_u64){ board, offset };
}

static uint64_t counted(size_t offset, int cpu)
{
    if (single)
        return cpu ? 0 : *(uint64_t *)((char *)&together + offset);
    return qemu_plugin_u64_get(counter(offset), cpu);
}

static void show(const char *mark, int cpu)
{
    pthread_mutex_lock(&lock);
    fprintf(out, "{\"mark\": %s, \"cpu\": %d, \"cpus\": [", mark, cpu);
    int cpus = qemu_plugin_num_vcpus();
    for (int i = 0; i < cpus; i++) {
        fprintf(out, "%s{\"el\": [", i ? ", " : "");
        for (size_t level = 0; level < 4; level++) {
            size_t offset = offsetof(struct counts, el) + level * sizeof(uint64_t);
            fprintf(out, "%s%" PRIu64, level ? ", " : "", counted(offset, i));
        }
        fprintf(out, "], \"eret\": %" PRIu64 ", \"wfi\": %" PRIu64 ", \"spin\": %" PRIu64 "}",
                counted(offsetof(struct counts, eret), i),
                counted(offsetof(struct counts, wfi), i),
                counted(offsetof(struct counts, spin), i));
    }
    fprintf(out, "]}\n");
    fflush(out);
    pthread_mutex_unlock(&lock);
}

static uint64_t executed(size_t place)
{
    if (single)
        return places_together[place];
    qemu_plugin_u64 at = { place_board, place * sizeof(uint64_t) };
    uint64_t sum = 0;
    for (int cpu = 0; cpu < qemu_plugin_num_vcpus(); cpu++)
        sum += qemu_plugin_u64_get(at, cpu);
    return sum;
}

/* At the first mark `count` is made what ran before, at the second what ran between them. Each counts once. */
static void profile_mark(unsigned *mark)
{
    *mark = 0;
    pthread_mutex_lock(&lock);
    for (size_t at = 0; at < PLACES; at++)
        if (places[at].address)
            places[at].count = executed(at) - places[at].count;
    pthread_mutex_unlock(&lock);
}

static void count_one(unsigned cpu, void *counter)
{
    (void)cpu;
    ++*(uint64_t *)counter;
}

static void profile(struct qemu_plugin_insn *insn, uint64_t address)
{
    size_t at = address * 0x9e3779b97f4a7c15u >> 44;
    pthread_mutex_lock(&lock);
    for (size_t tried = 0; places[at].address && places[at].address != address; tried++) {
        if (tried == PLACES) {
            pthread_mutex_unlock(&lock);
            return;
        }
        at = (at + 1) % PLACES;
    }
    places[at].address = address;
    pthread_mutex_unlock(&lock);
    if (single) {
        qemu_plugin_register_vcpu_insn_exec_cb(insn, count_one, NO_REGISTERS, &places_together[at]);
        return;
    }
    qemu_plugin_u64 count = { place_board, at * sizeof(uint64_t) };
    qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, INLINE_ADD, count, 1);
}

static int by_count(const void *a, const void *b)
{
    uint64_t left = ((const struct place *)a)->count, right = ((const struct place *)b)->count;
    return left < right ? 1 : left > right ? -1 : 0;
}

static void marked(unsigned cpu, void *data)
{
    char mark[8];
    uintptr_t number = (uintptr_t)data;
    snprintf(mark, sizeof mark, "%u", (unsigned)number);
    show(mark, (int)cpu);
    if (number == LAUNCH)
        __atomic_store_n(&guest_seen, false, __ATOMIC_RELAXED);
    if (places && number == profile_from)
        profile_mark(&profile_from);
    else if (places && number == profile_to)
        profile_mark(&profile_to);
}

/* The level at which a block is being translated for the CPU that is about to run it: PSTATE.EL, where the register
 * that debuggers call cpsr has it. Blocks of different levels are translated apart. */
static unsigned level_now(void)
{
    GByteArray *bytes = g_byte_array_new();
    qemu_plugin_read_register(pstate, bytes);
    unsigned level = bytes->len ? bytes->data[0] >> 2 & 3 : 0;
    g_byte_array_free(bytes, 1);
    return level;
}

static void add(struct qemu_plugin_insn *insn, size_t offset)
{
    if (single) {
        qemu_plugin_register_vcpu_insn_exec_cb(insn, count_one, NO_REGISTERS, (char *)&together + offset);
        return;
    }
    qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, INLINE_ADD, counter(offset), 1);
}

static void see_guest(unsigned level)
{
    if (level == GUEST && !__atomic_exchange_n(&guest_seen, true, __ATOMIC_RELAXED))
        show("\"guest\"", -1);
}

static void entered(unsigned cpu, void *data)
{
    (void)cpu;
    (void)data;
    in_guest = true;
}

/* Behind VMRUN rAX has the VMCB's address still. */
static void left(unsigned cpu, void *data)
{
    (void)data;
    in_guest = false;
#if INTERFACE >= 7
    uint64_t vmcb = 0;
    uint32_t code = 0;
    GByteArray *bytes = g_byte_array_new();
    if (rax && qemu_plugin_read_register(rax, bytes) && bytes->len >= sizeof vmcb)
        memcpy(&vmcb, bytes->data, sizeof vmcb);
    g_byte_array_free(bytes, 1);
    bytes = g_byte_array_new();
    if (vmcb && qemu_plugin_read_memory_hwaddr(vmcb + EXIT_CODE, bytes, sizeof code) == 0 && bytes->len >= sizeof code)
        memcpy(&code, bytes->data, sizeof code);
    g_byte_array_free(bytes, 1);
    if (code == EXIT_HLT)
        qemu_plugin_u64_add(counter(offsetof(struct counts, wfi)), cpu, 1);
#else
    (void)cpu;
#endif
}

/* A block of x86_64's. Those of a guest are translated apart from those outside, when they are about to run. */
static void translated_x86(struct qemu_plugin_tb *block)
{
    unsigned level = in_guest ? GUEST : HYPERVISOR;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
        uint8_t bytes[X86_LONGEST] = { 0 };
        size_t length = qemu_plugin_insn_data(insn, bytes, sizeof bytes);
        uint64_t address = qemu_plugin_insn_vaddr(insn);
        if (i == 0 && address == __atomic_load_n(&behind_vmrun, __ATOMIC_RELAXED) && bytes[0] == CLI) {
            level = HYPERVISOR;
            qemu_plugin_register_vcpu_insn_exec_cb(insn, left, READS_REGISTERS, NULL);
        }
        add(insn, offsetof(struct counts, el) + level * sizeof(uint64_t));
        if (level == HYPERVISOR && length == sizeof PAUSE && !memcmp(bytes, PAUSE, sizeof PAUSE))
            add(insn, offsetof(struct counts, spin));
        if (level == HYPERVISOR && length == sizeof VMRUN && !memcmp(bytes, VMRUN, sizeof VMRUN)) {
            __atomic_store_n(&behind_vmrun, address + length, __ATOMIC_RELAXED);
            add(insn, offsetof(struct counts, eret));
            qemu_plugin_register_vcpu_insn_exec_cb(insn, entered, NO_REGISTERS, NULL);
        }
        if (length == sizeof NOP + 1 && !memcmp(bytes, NOP, sizeof NOP) && bytes[sizeof NOP] >= FIRST_MARK &&
            bytes[sizeof NOP] <= LAST_MARK)
            qemu_plugin_register_vcpu_insn_exec_cb(insn, marked, NO_REGISTERS,
                                                   (void *)(uintptr_t)bytes[sizeof NOP]);
        if ((int)level == profiled)
            profile(insn, address);
    }
    see_guest(level);
}

static void translated_arm(struct qemu_plugin_tb *block)
{
    if (!pstate)
        return;
    unsigned level = level_now();
    see_guest(level);
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
        uint32_t opcode = 0;
        qemu_plugin_insn_data(insn, &opcode, sizeof opcode);
        add(insn, offsetof(struct counts, el) + level * sizeof(uint64_t));
        if (level == 2 && (opcode == ERET || opcode == ERETAA || opcode == ERETAB))
            add(insn, offsetof(struct counts, eret));
        if (level == 2 && opcode == WFE)
            add(insn, offsetof(struct counts, spin));
        if (level < 2 && opcode == WFI)
            add(insn, offsetof(struct counts, wfi));
        if ((opcode & HINT_MASK) == HINT && HINT_NUMBER(opcode) >= FIRST_MARK)
            qemu_plugin_register_vcpu_insn_exec_cb(insn, marked, NO_REGISTERS,
                                                   (void *)(uintptr_t)HINT_NUMBER(opcode));
        if ((int)level == profiled)
            profile(insn, qemu_plugin_insn_vaddr(insn));
    }
}

static void see_block(struct qemu_plugin_tb *block)
{
    if (is_x86)
        translated_x86(block);
    else
        translated_arm(block);
}

/* By the first CPU: with one thread for all, the others have none of their own when they come to be. */
static void find_level(void)
{
    if (pstate || rax)
        return;
    GArray *registers = qemu_plugin_get_registers();
    const qemu_plugin_reg_descriptor *found = (const void *)registers->data;
    for (unsigned i = 0; i < registers->len; i++)
        if (!pstate && !strcmp(found[i].name, "cpsr"))
            pstate = found[i].handle;
        else if (!rax && !strcmp(found[i].name, "rax"))
            rax = found[i].handle;
    g_array_free(registers, 1);
}

static void finish(void)
{
    show("\"end\"", -1);
    if (places) {
        qsort(places, PLACES, sizeof *places, by_count);
        for (size_t at = 0; at < SHOWN && places[at].count; at++)
            fprintf(out, "{\"address\": \"%#" PRIx64 "\", \"count\": %" PRIu64 "}\n", places[at].address,
                    places[at].count);
    }
    fclose(out);
}

#if INTERFACE >= 7
static void started(unsigned cpu, void *data)
{
    (void)cpu;
    (void)data;
    find_level();
}

static void translated(struct qemu_plugin_tb *block, void *data)
{
    (void)data;
    see_block(block);
}

static void ended(void *data)
{
    (void)data;
    finish();
}
#else
static void started(qemu_plugin_id_t id, unsigned cpu)
{
    (void)id;
    (void)cpu;
    find_level();
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    see_block(block);
}

static void ended(qemu_plugin_id_t id, void *data)
{
    (void)id;
    (void)data;
    finish();
}
#endif

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int count, char **arguments)
{
    is_x86 = !strcmp(info->target, "x86_64");
    const char *path = NULL;
    for (int i = 0; i < count; i++) {
        if (!strncmp(arguments[i], "out=", 4))
            path = arguments[i] + 4;
        else if (!strcmp(arguments[i], "single=on"))
            single = true;
        else
            sscanf(arguments[i], "profile=%d:%u:%u", &profiled, &profile_from, &profile_to);
    }
    out = path ? fopen(path, "w") : NULL;
    if (!out) {
        fprintf(stderr, "count: out=FILE is missing or can't be written\n");
        return 1;
    }
    if (single && is_x86) {
        fprintf(stderr, "count: on x86_64 each CPU must have a thread of its own\n");
        return 1;
    }
    board = qemu_plugin_scoreboard_new(sizeof(struct counts));
    if (profiled >= 0) {
        places = calloc(PLACES, sizeof *places);
        place_board = qemu_plugin_scoreboard_new(PLACES * sizeof(uint64_t));
        places_together = calloc(PLACES, sizeof *places_together);
    }
#if INTERFACE >= 7
    qemu_plugin_register_vcpu_init_cb(id, started, NULL);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated, NULL);
#else
    qemu_plugin_register_vcpu_init_cb(id, started);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
#endif
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
