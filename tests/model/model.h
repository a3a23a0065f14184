/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A model of a migration's two ends, walked whole (docs/switchover.md, "The model"). Both ends decide with the functions of
 * src/session (switchover_next, recover_source_next, recover_target_next ...); this is the world around them: processes, agents,
 * journals, hosts, connections, and what goes wrong with them.
 *
 * A state is a struct of octets, compared octet by octet. A step is what one process does without being interrupted; a
 * fault may come between any two steps. Connections deliver in order; a broken one delivers any beginning of what was sent. */
#ifndef XMOTION_MODEL_H
#define XMOTION_MODEL_H

#include "session/recovery.h"

#include <stddef.h>
#include <stdint.h>

/* Program counters of the sender: what it does next, or waits for. */
enum {
    S_NONE, /* no process */
    S_BEGIN,
    S_CONNECT,
    S_PREPARED, /* waits */
    S_MEMORY,
    S_MEMORY_READY, /* waits */
    S_SUSPEND,
    S_FINAL,
    S_READY, /* waits */
    S_COMMIT,
    S_ASIDE,
    S_GO,
    S_RUNNING, /* waits */
    S_DONE,
    S_DESTROY,
    S_FORGET,
    S_FORGOT, /* waits */
    S_FINISH,
    S_LEFT,
    S_PARK_NOTE,
    S_PARK_RESUME,
    S_PARKED,  /* waits for the receiver to be back */
    S_RESUMED, /* waits */
    S_UNDO_NOTE,
    S_UNDO_RESUME,
    S_UNDO_TELL,
    S_ABORTED, /* waits */
    S_BACK,
    S_PC_COUNT
};

/* Of the receiver's session. */
enum {
    T_NONE,
    T_PREPARE,
    T_VOLUMES,
    T_PREPARED,
    T_SERVE, /* waits */
    T_GO_NOTE,
    T_RUN,
    T_RAN, /* waits for the agent */
    T_RUN_NOTE,
    T_RUNNING,
    T_DONE, /* waits for FORGET */
    T_FORGOT,
    T_PARK,
    T_PARKED, /* waits for the sender */
    T_UNDO_NOTE,
    T_UNDO_GUEST,
    T_UNDO_VOLUMES,
    T_UNDO_JOURNAL,
    T_UNDO_TELL,
    T_PC_COUNT
};

enum { GUEST_ABSENT, GUEST_RUNNING, GUEST_STILL, GUEST_ASIDE, GUEST_INCOMING, GUEST_BUILT };
enum { AGENT_NONE, AGENT_HELD, AGENT_ORPHAN, AGENT_UNHEARD /* died; its process has not noticed */ };

enum message {
    M_NONE,
    M_PREPARE,
    M_MEMORY,
    M_FINAL,
    M_GO,
    M_ABORT,
    M_FORGET,
    M_RESUME,
    M_ASK,
    M_PREPARED,
    M_MEMORY_READY,
    M_READY,
    M_RUNNING,
    M_FAILED, /* with "guest": "destroyed", as ABORTED has */
    M_RESUMED,
    M_REFUSED, /* FAILED to RESUME */
    M_HERE,
    M_GONE,
    M_FORGOT,
    M_COUNT
};

#define QUEUE 3

struct link {
    uint8_t s_open, t_open;
    uint8_t broken; /* each open end may notice, at any time, and lose what it has not read */
    uint8_t to_t[QUEUE], to_s[QUEUE];
};

enum { LINK_CONTROL, LINK_RESUME, LINK_ASK, LINK_COUNT };

struct model {
    uint8_t wrong;       /* not 0: a step that must not be: enum wrong */
    uint8_t faults;      /* so far */
    uint8_t ended;       /* the guest ended by itself, or with a host after the migration was over for it */
    uint8_t ran;         /* it has run at the target */
    uint8_t lost;        /* the target's host never comes back */
    uint8_t later;       /* another migration has moved the guest since */
    uint8_t elsewhere;   /* ... to a third host, where it runs */
    uint8_t back_lost;   /* --break only: a journal that a power cut brings back, source */
    uint8_t t_back_lost; /* target */
    /* the source's host */
    uint8_t s_up, s_same, s_guest, s_agent;
    uint8_t s_journal; /* 0: none, else phase + 1 */
    uint8_t s_pc, s_state;
    uint8_t s_told; /* the sender knows that nothing is left at the target */
    uint8_t r_on, r_answer, r_choice, r_waits; /* recovery run there */
    /* the target's host */
    uint8_t t_up, t_same, t_receiver, t_guest, t_agent;
    uint8_t t_command; /* its agent was told to run the guest */
    uint8_t t_volumes;
    uint8_t t_fresh;   /* the copy is what stands still at the source */
    uint8_t t_journal; /* 0: none, else phase + 1 */
    uint8_t t_released, t_resumable;
    uint8_t t_pc, t_state;
    struct link links[LINK_COUNT];
};

/* What is broken on purpose (--break NAME). */
enum breakage {
    BREAK_NOTHING,
    BREAK_RESUME_UNASKED,
    BREAK_LOST_IS_UNDONE,
    BREAK_CANCEL_AFTER_GO,
    BREAK_GO_BEFORE_COMMIT,
    BREAK_GO_BEFORE_ASIDE,
    BREAK_DONE_BEFORE_RUNNING,
    BREAK_DESTROY_WITHOUT_DONE,
    BREAK_FORGET_BEFORE_DONE,
    BREAK_FORGET_UNANSWERED,
    BREAK_NO_ANSWER_IS_GONE,
    BREAK_NO_ANSWER_IS_HERE,
    BREAK_BEGUN_NOT_STARTED,
    BREAK_TARGET_FORGETS,
    BREAK_GONE_NOT_UNDONE,
    BREAK_LIVE_NOT_FENCED,
    BREAK_PARK_KEEPS_GUEST,
    BREAK_PARK_KEEPS_STATE,
    BREAK_RUN_BEFORE_GO_NOTED,
    BREAK_GIVE_BACK_NOT_NOTED,
    BREAK_UNDO_NOT_NOTED,
    BREAK_UNDO_FAILED_IS_UNDONE,
    BREAK_RUN_UNCLEAR_IS_FAILED,
    BREAK_REBOOT_UNDOES_GO,
    BREAK_NO_RELEASE_MARK,
    BREAK_VOLUMES_BEFORE_JOURNAL,
    BREAK_REMOVAL_NOT_DURABLE,
    BREAK_NO_LOCK,
    BREAK_AGENT_NOT_AWAITED,
    BREAK_BEGIN_UNSETTLED,
    BREAK_LEAVING_NOT_NOTED,
    BREAK_COUNT
};

extern const char *const break_names[BREAK_COUNT];
extern const char *const break_texts[BREAK_COUNT];
extern enum breakage broken_rule;

/* Actions of recovery that happened so far, by bit: a model in which one never does shows nothing of it. */
extern uint32_t model_source_actions, model_target_actions;

/* Steps that must not be, and states that must not be. */
enum wrong {
    RIGHT,
    WRONG_TWO_RUN,
    WRONG_TWO_MAY_RUN,
    WRONG_ROLLED_BACK,
    WRONG_STALE_COPY,
    WRONG_TWO_BUILT,
    WRONG_VOLUME_ORPHAN,
    WRONG_GUEST_ORPHAN,
    WRONG_VOLUME_TAKEN,
    WRONG_REFUSED,
    WRONG_CONFLICT,
    WRONG_RESUME_AFTER_GO,
    WRONG_QUEUE,
    WRONG_END,
    WRONG_FOR_EVER,
    WRONG_COUNT
};

extern const char *const wrong_texts[WRONG_COUNT];

enum edge {
    EDGE_STEP,   /* happens by itself, sooner or later */
    EDGE_FAULT,  /* may happen; counted */
    EDGE_CHOICE, /* a person's; may happen */
};

/* What the generators below call with every state that may come next; `label` is a constant. */
#define FAULTS_ANY 255u

struct sink {
    unsigned int max_faults; /* FAULTS_ANY: they are not counted */
    void (*next)(struct sink *sink, enum edge edge, const char *label, const struct model *m);
};

void model_begin(struct model *m);
/* Every state that follows `m`. */
void model_next(const struct model *m, struct sink *sink);
void model_source(const struct model *m, struct sink *sink);
void model_recover(const struct model *m, struct sink *sink);
void model_target(const struct model *m, struct sink *sink);
void model_receiver(const struct model *m, struct sink *sink);
void model_faults(const struct model *m, struct sink *sink);
void model_later(const struct model *m, struct sink *sink);

/* What is wrong with a state; with one in which nothing happens any more by itself. */
enum wrong model_check(const struct model *m);
enum wrong model_check_end(const struct model *m);
/* One line; returns `text`. */
const char *model_text(const struct model *m, char *text, size_t size);

/* -- parts -- */

void model_emit(struct sink *sink, enum edge edge, const char *label, struct model *m);
void link_send(struct model *m, unsigned int link, int to_target, enum message what);
enum message link_head(const struct model *m, unsigned int link, int at_target);
void link_take(struct model *m, unsigned int link, int at_target);
void link_close(struct model *m, unsigned int link, int at_target);
int link_noticed(const struct model *m, unsigned int link, int at_target); /* may be */
void source_runs(struct model *m);
void target_runs(struct model *m);
void note_outgoing(struct model *m, enum outgoing_phase phase);
void note_incoming(struct model *m, enum incoming_phase phase);
void remove_outgoing(struct model *m);
void remove_incoming(struct model *m);
void remove_volumes(struct model *m);
enum switchover_action feed_target(struct model *m, enum switchover_event event);

#endif
