/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Walks the model whole, breadth first, and says what it found.
 *   switchover-model [--faults N|any]                  0: all invariants hold; any number of faults unless told
 *   switchover-model [--faults N] --break NAME|NUMBER  one rule broken on purpose: prints the shortest way to harm, ends with 1
 *   switchover-model --breaks                          every break in turn; 0: all were caught
 *   switchover-model --list */
#include "model.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FAULTS_MAX     9
#define NOWHERE        UINT32_MAX
#define TRACE_MAX      400

const char *const break_names[BREAK_COUNT] = {
    [BREAK_NOTHING] = "nothing",
    [BREAK_RESUME_UNASKED] = "resume-unasked",
    [BREAK_LOST_IS_UNDONE] = "lost-is-undone",
    [BREAK_CANCEL_AFTER_GO] = "cancel-after-go",
    [BREAK_GO_BEFORE_COMMIT] = "go-before-commit",
    [BREAK_GO_BEFORE_ASIDE] = "go-before-aside",
    [BREAK_DONE_BEFORE_RUNNING] = "done-before-running",
    [BREAK_DESTROY_WITHOUT_DONE] = "destroy-without-done",
    [BREAK_FORGET_BEFORE_DONE] = "forget-before-done",
    [BREAK_FORGET_UNANSWERED] = "forget-unanswered",
    [BREAK_NO_ANSWER_IS_GONE] = "no-answer-is-gone",
    [BREAK_NO_ANSWER_IS_HERE] = "no-answer-is-here",
    [BREAK_BEGUN_NOT_STARTED] = "begun-not-started",
    [BREAK_TARGET_FORGETS] = "target-forgets",
    [BREAK_GONE_NOT_UNDONE] = "gone-not-undone",
    [BREAK_LIVE_NOT_FENCED] = "live-not-fenced",
    [BREAK_PARK_KEEPS_GUEST] = "park-keeps-guest",
    [BREAK_PARK_KEEPS_STATE] = "park-keeps-state",
    [BREAK_RUN_BEFORE_GO_NOTED] = "run-before-go-noted",
    [BREAK_GIVE_BACK_NOT_NOTED] = "give-back-not-noted",
    [BREAK_UNDO_NOT_NOTED] = "undo-not-noted",
    [BREAK_UNDO_FAILED_IS_UNDONE] = "undo-failed-is-undone",
    [BREAK_RUN_UNCLEAR_IS_FAILED] = "run-unclear-is-failed",
    [BREAK_REBOOT_UNDOES_GO] = "reboot-undoes-go",
    [BREAK_NO_RELEASE_MARK] = "no-release-mark",
    [BREAK_VOLUMES_BEFORE_JOURNAL] = "volumes-before-journal",
    [BREAK_REMOVAL_NOT_DURABLE] = "removal-not-durable",
    [BREAK_NO_LOCK] = "no-lock",
    [BREAK_AGENT_NOT_AWAITED] = "agent-not-awaited",
    [BREAK_BEGIN_UNSETTLED] = "begin-unsettled",
    [BREAK_LEAVING_NOT_NOTED] = "leaving-not-noted",
};

const char *const break_texts[BREAK_COUNT] = {
    [BREAK_NOTHING] = "",
    [BREAK_RESUME_UNASKED] = "recovery of the source resumes after commit without asking",
    [BREAK_LOST_IS_UNDONE] = "the sender takes a connection lost after GO for an undone migration",
    [BREAK_CANCEL_AFTER_GO] = "the sender lets itself be cancelled after GO",
    [BREAK_GO_BEFORE_COMMIT] = "GO is sent before the journal says commit",
    [BREAK_GO_BEFORE_ASIDE] = "GO is sent before the guest is set aside",
    [BREAK_DONE_BEFORE_RUNNING] = "the journal says done when GO is sent",
    [BREAK_DESTROY_WITHOUT_DONE] = "the sender destroys its half although done could not be written",
    [BREAK_FORGET_BEFORE_DONE] = "FORGET is sent before the journal says done",
    [BREAK_FORGET_UNANSWERED] = "the sender removes its journal without waiting for the answer to FORGET",
    [BREAK_NO_ANSWER_IS_GONE] = "recovery of the source takes no answer for gone",
    [BREAK_NO_ANSWER_IS_HERE] = "recovery of the source takes no answer for here",
    [BREAK_BEGUN_NOT_STARTED] = "recovery of the source does not start anew what a power cut took",
    [BREAK_TARGET_FORGETS] = "the receiver removes its journal when it sends RUNNING",
    [BREAK_GONE_NOT_UNDONE] = "the receiver answers gone, and undoes nothing",
    [BREAK_LIVE_NOT_FENCED] = "the receiver answers gone while a session lives that may still read GO",
    [BREAK_PARK_KEEPS_GUEST] = "the receiver keeps the built guest when it parks",
    [BREAK_PARK_KEEPS_STATE] = "the receiver stays ready when it parks",
    [BREAK_RUN_BEFORE_GO_NOTED] = "the guest is run before the journal says go",
    [BREAK_GIVE_BACK_NOT_NOTED] = "the guest is given back before the journal takes go back",
    [BREAK_UNDO_NOT_NOTED] = "volumes are removed while the journal still says that they can be resumed",
    [BREAK_UNDO_FAILED_IS_UNDONE] = "the receiver says undone although the half-built guest could not be destroyed",
    [BREAK_RUN_UNCLEAR_IS_FAILED] = "the receiver gives back a guest whose agent died while it was told to run it, without looking",
    [BREAK_REBOOT_UNDOES_GO] = "recovery of the target undoes go after a reboot",
    [BREAK_NO_RELEASE_MARK] = "recovery of the target takes a guest that is absent for one that never ran",
    [BREAK_VOLUMES_BEFORE_JOURNAL] = "volumes are made before the journal knows them",
    [BREAK_REMOVAL_NOT_DURABLE] = "a power cut brings a removed journal back",
    [BREAK_NO_LOCK] = "recovery takes a journal whose process lives",
    [BREAK_AGENT_NOT_AWAITED] = "recovery looks while an agent of a dead process is still at work",
    [BREAK_BEGIN_UNSETTLED] = "a guest is sent while an earlier journal of it says begun",
    [BREAK_LEAVING_NOT_NOTED] = "a guest is sent on while the journal of its arrival says run",
};

/* -- what was seen -- */

struct edges {
    uint32_t *to;
    size_t count, size;
};

struct walk {
    struct sink sink; /* first */
    struct model *states;
    uint32_t *parents;
    uint32_t *edges_begin; /* of each state, in `steps`: what happens by itself */
    uint32_t count, size;
    uint32_t *table; /* hash -> state, NOWHERE */
    uint32_t table_size;
    struct edges steps;
    uint64_t transitions;
    uint32_t current, ends;
    bool moved;      /* the current one has a step */
    uint32_t bad;    /* state, or NOWHERE */
    enum wrong wrong;
};

static void *grow(void *p, size_t count, size_t each)
{
    void *q = realloc(p, count * each);

    if (!q) {
        (void)fprintf(stderr, "switchover-model: out of memory at %zu states\n", count);
        exit(2);
    }
    return q;
}

static uint32_t hash_of(const struct model *m)
{
    const uint8_t *p = (const uint8_t *)m;
    uint64_t h = UINT64_C(14695981039346656037);

    for (size_t i = 0; i < sizeof(*m); i++)
        h = (h ^ p[i]) * UINT64_C(1099511628211);
    return (uint32_t)(h ^ h >> 29);
}

static void insert(struct walk *w, uint32_t state)
{
    uint32_t at = hash_of(&w->states[state]) & (w->table_size - 1);

    while (w->table[at] != NOWHERE)
        at = (at + 1) & (w->table_size - 1);
    w->table[at] = state;
}

static void make_room(struct walk *w)
{
    if (w->count == w->size) {
        w->size *= 2;
        w->states = grow(w->states, w->size, sizeof(*w->states));
        w->parents = grow(w->parents, w->size, sizeof(*w->parents));
        w->edges_begin = grow(w->edges_begin, (size_t)w->size + 1, sizeof(*w->edges_begin));
    }
    if (w->count < w->table_size / 2)
        return;
    w->table_size *= 2;
    w->table = grow(w->table, w->table_size, sizeof(*w->table));
    memset(w->table, 0xff, w->table_size * sizeof(*w->table));
    for (uint32_t i = 0; i < w->count; i++)
        insert(w, i);
}

static uint32_t find(const struct walk *w, const struct model *m)
{
    uint32_t at = hash_of(m) & (w->table_size - 1);

    while (w->table[at] != NOWHERE && memcmp(&w->states[w->table[at]], m, sizeof(*m)) != 0)
        at = (at + 1) & (w->table_size - 1);
    return w->table[at];
}

static uint32_t add(struct walk *w, const struct model *m, uint32_t parent)
{
    uint32_t state = find(w, m);

    if (state != NOWHERE)
        return state;
    make_room(w);
    state = w->count++;
    w->states[state] = *m;
    w->parents[state] = parent;
    insert(w, state);
    if (w->bad == NOWHERE) {
        w->wrong = model_check(m);
        w->bad = w->wrong ? state : NOWHERE;
    }
    return state;
}

static void seen(struct sink *sink, enum edge edge, const char *label, const struct model *m)
{
    struct walk *w = (struct walk *)sink;
    struct edges *e = &w->steps;
    uint32_t to = add(w, m, w->current);

    (void)label;
    w->transitions++;
    if (edge != EDGE_STEP)
        return;
    w->moved = true;
    if (e->count == e->size) {
        e->size = e->size ? e->size * 2 : 1u << 16;
        e->to = grow(e->to, e->size, sizeof(*e->to));
    }
    e->to[e->count++] = to;
}

/* Breadth first: the first bad state found is one of the nearest. */
static void explore(struct walk *w)
{
    struct model first;

    model_begin(&first);
    (void)add(w, &first, NOWHERE);
    for (w->current = 0; w->current < w->count && w->bad == NOWHERE; w->current++) {
        struct model m = w->states[w->current];

        w->edges_begin[w->current] = (uint32_t)w->steps.count;
        w->moved = false;
        model_next(&m, &w->sink);
        if (w->moved || w->bad != NOWHERE)
            continue;
        w->ends++;
        w->wrong = model_check_end(&m);
        if (w->wrong)
            w->bad = w->current;
    }
    w->edges_begin[w->current] = (uint32_t)w->steps.count;
}

/* Steps alone lead to an end from everywhere: they form no circle. */
static void find_circle(struct walk *w)
{
    uint8_t *colour = calloc(w->count, 1); /* 1: on the way, 2: leads to ends only */
    uint32_t *stack = grow(NULL, w->count, sizeof(*stack));
    uint32_t *next = grow(NULL, w->count, sizeof(*next));
    uint32_t depth;

    for (uint32_t root = 0; colour && root < w->count && w->bad == NOWHERE; root++) {
        if (colour[root])
            continue;
        depth = 0;
        stack[0] = root;
        next[root] = w->edges_begin[root];
        colour[root] = 1;
        for (;;) {
            uint32_t at = stack[depth];

            if (next[at] == w->edges_begin[at + 1]) {
                colour[at] = 2;
                if (!depth--)
                    break;
                continue;
            }
            at = w->steps.to[next[at]++];
            if (colour[at] == 1) {
                w->bad = at;
                w->wrong = WRONG_FOR_EVER;
                break;
            }
            if (colour[at] == 2)
                continue;
            colour[at] = 1;
            next[at] = w->edges_begin[at];
            stack[++depth] = at;
        }
    }
    free(colour);
    free(stack);
    free(next);
}

static void walk_init(struct walk *w, unsigned int max_faults)
{
    memset(w, 0, sizeof(*w));
    w->sink.next = seen;
    w->sink.max_faults = max_faults;
    w->bad = NOWHERE;
    w->size = 1u << 12;
    w->table_size = 1u << 14;
    w->states = grow(NULL, w->size, sizeof(*w->states));
    w->parents = grow(NULL, w->size, sizeof(*w->parents));
    w->edges_begin = grow(NULL, (size_t)w->size + 1, sizeof(*w->edges_begin));
    w->table = grow(NULL, w->table_size, sizeof(*w->table));
    memset(w->table, 0xff, w->table_size * sizeof(*w->table));
}

static void walk_finish(struct walk *w)
{
    free(w->states);
    free(w->parents);
    free(w->edges_begin);
    free(w->table);
    free(w->steps.to);
}

/* -- told -- */

struct labeller {
    struct sink sink; /* first */
    const struct model *wanted;
    const char *label;
};

static void name_step(struct sink *sink, enum edge edge, const char *label, const struct model *m)
{
    struct labeller *l = (struct labeller *)sink;

    (void)edge;
    if (!l->label && memcmp(m, l->wanted, sizeof(*m)) == 0)
        l->label = label;
}

static unsigned int print_way(const struct walk *w, bool with_states)
{
    uint32_t way[TRACE_MAX];
    unsigned int count = 0;
    char text[1200];

    for (uint32_t s = w->bad; s != NOWHERE && count < TRACE_MAX; s = w->parents[s])
        way[count++] = s;
    for (unsigned int i = count - 1; i-- > 0;) {
        struct labeller l = {.sink = {.max_faults = w->sink.max_faults, .next = name_step}, .wanted = &w->states[way[i]]};

        model_next(&w->states[way[i + 1]], &l.sink);
        (void)printf("  %2u  %s\n", count - 1 - i, l.label ? l.label : "?");
        if (with_states || i == 0)
            (void)printf("      [%s]\n", model_text(&w->states[way[i]], text, sizeof(text)));
    }
    return count - 1;
}

/* Recovery does at each end what the header says that it may do there, and each of it somewhere. */
static bool all_happened(void)
{
    static const uint32_t source = 1u << RECOVER_FINISH | 1u << RECOVER_LATER | 1u << RECOVER_START_ANEW | 1u << RECOVER_ASK |
                                   1u << RECOVER_FORGET | 1u << RECOVER_RESUME | 1u << RECOVER_DESTROY_ASIDE |
                                   1u << RECOVER_UNDECIDED | 1u << RECOVER_NOTE_BEGUN | 1u << RECOVER_NOTE_DONE |
                                   1u << RECOVER_NOTE_BACK | 1u << RECOVER_NOTE_LEFT;
    static const uint32_t target = 1u << RECOVER_LATER | 1u << RECOVER_START_ANEW | 1u << RECOVER_NOTE_LEFT | 1u << RECOVER_RUN |
                                   1u << RECOVER_UNDO | 1u << RECOVER_DESTROY_INCOMING | 1u << RECOVER_NOTE_PREPARE |
                                   1u << RECOVER_NOTE_RUN;

    for (unsigned int i = 0; i < RECOVER_ACTION_COUNT; i++) {
        if ((model_source_actions ^ source) >> i & 1)
            (void)printf("recovery at the source: \"%s\" %s\n", recover_action_name((enum recover_action)i),
                         source >> i & 1 ? "never happens" : "happens");
        if ((model_target_actions ^ target) >> i & 1)
            (void)printf("recovery at the target: \"%s\" %s\n", recover_action_name((enum recover_action)i),
                         target >> i & 1 ? "never happens" : "happens");
    }
    return model_source_actions == source && model_target_actions == target;
}

static bool run(unsigned int max_faults, bool with_states)
{
    struct walk w;
    char faults[40];
    bool good;

    (void)snprintf(faults, sizeof(faults), "at most %u faults", max_faults);
    walk_init(&w, max_faults);
    explore(&w);
    if (w.bad == NOWHERE)
        find_circle(&w);
    good = w.bad == NOWHERE;
    if (!good)
        (void)print_way(&w, with_states);
    if (max_faults == FAULTS_ANY)
        (void)snprintf(faults, sizeof(faults), "any number of faults");
    (void)printf("%s%u states, %llu transitions, %u ends, %s: %s%s\n", broken_rule ? "      " : "", w.count,
                 (unsigned long long)w.transitions, w.ends, faults, good ? "all invariants hold" : "VIOLATED: ",
                 good ? "" : wrong_texts[w.wrong]);
    walk_finish(&w);
    if (good && !broken_rule && max_faults == FAULTS_ANY)
        good = all_happened();
    return good;
}

/* A break that is not caught says that the model cannot see it. */
static bool run_breaks(unsigned int max_faults, bool with_states)
{
    unsigned int caught = 0;

    broken_rule = BREAK_NOTHING;
    if (!run(max_faults, with_states))
        return false;
    for (int i = 1; i < BREAK_COUNT; i++) {
        broken_rule = (enum breakage)i;
        (void)printf("break %d, %s: %s\n", i, break_names[i], break_texts[i]);
        if (!run(max_faults, with_states))
            caught++;
        else
            (void)printf("      NOT CAUGHT\n");
    }
    (void)printf("%u of %d breaks caught\n", caught, BREAK_COUNT - 1);
    return caught == BREAK_COUNT - 1;
}

static int find_break(const char *text)
{
    char *end;
    long n = strtol(text, &end, 10);

    if (*text && !*end && n > 0 && n < BREAK_COUNT)
        return (int)n;
    for (int i = 1; i < BREAK_COUNT; i++) {
        if (strcmp(break_names[i], text) == 0)
            return i;
    }
    (void)fprintf(stderr, "switchover-model: there is no break '%s'; --list names them\n", text);
    exit(2);
}

int main(int argc, char **argv)
{
    unsigned int max_faults = FAULTS_ANY;
    bool breaks = false, with_states = false;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--list") == 0) {
            for (int b = 1; b < BREAK_COUNT; b++)
                (void)printf("%2d  %-22s %s\n", b, break_names[b], break_texts[b]);
            return 0;
        }
        if (strcmp(argv[i], "--breaks") == 0) {
            breaks = true;
        } else if (strcmp(argv[i], "--states") == 0) {
            with_states = true;
        } else if (strcmp(argv[i], "--break") == 0 && i + 1 < argc) {
            broken_rule = (enum breakage)find_break(argv[++i]);
        } else if (strcmp(argv[i], "--faults") == 0 && i + 1 < argc && strcmp(argv[i + 1], "any") == 0) {
            max_faults = FAULTS_ANY;
            i++;
        } else if (strcmp(argv[i], "--faults") == 0 && i + 1 < argc && argv[i + 1][0] >= '0' && argv[i + 1][0] <= '0' + FAULTS_MAX &&
                   !argv[i + 1][1]) {
            max_faults = (unsigned int)(argv[++i][0] - '0');
        } else {
            (void)fprintf(stderr, "usage: switchover-model [--faults 0-%d|any] [--states] [--break NAME|NUMBER | --breaks | --list]\n",
                          FAULTS_MAX);
            return 2;
        }
    }
    return (breaks ? run_breaks(max_faults, with_states) : run(max_faults, with_states)) ? EXIT_SUCCESS : EXIT_FAILURE;
}
