package adminhttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
)

// The rows and messages that were set aside, and the calls for them. Unlike the rest
// of this handler these calls read and write the backend: one at a time, and
// each for a bounded time.

const (
	listFor  = 10 * time.Second
	writeFor = time.Minute // a purge removes row by row; broken off it may be repeated
)

// setAsideDoc is the answer of the quarantine.
type setAsideDoc struct {
	Success   bool        `json:"success"`
	Timestamp stamp       `json:"timestamp"`
	Summary   string      `json:"summary"`
	Devices   []deviceDoc `json:"devices"` // deleted ones that can be restored: one at most
	Rows      []rowDoc    `json:"rows"`    // damaged ones, oldest first
	RowCount  int         `json:"rowCount"`
}

type deviceDoc struct {
	Account  string  `json:"account"`
	Since    stamp   `json:"since"`
	Reason   *string `json:"reason"` // as in lastDisconnectReason, where it was told
	Why      string  `json:"why"`
	WhatToDo string  `json:"whatToDo"`
}

type rowDoc struct {
	Kind  string  `json:"kind"`
	What  string  `json:"what"`
	Peer  *string `json:"peer"` // null where a row is nobody's in particular
	Since stamp   `json:"since"`
	Why   string  `json:"why"`
	Bytes int     `json:"bytes"`
}

// maxRows is how many rows an answer shows; rowCount counts all.
const maxRows = 200

func (h *Handler) quarantine(w http.ResponseWriter, r *http.Request) {
	doc, no := h.setAside(r.Context())
	if no != nil {
		h.told(w, no)
		return
	}
	h.json(w, http.StatusOK, doc)
}

func (h *Handler) setAside(ctx context.Context) (setAsideDoc, *refusal) {
	var q authstore.Quarantine
	no := h.withStore(ctx, listFor, func(ctx context.Context) (err error) {
		q, err = h.m.Quarantine(ctx)
		return err
	})
	if no != nil {
		return setAsideDoc{}, no
	}
	doc := setAsideDoc{
		Success: true, Timestamp: stamp(time.Now()), Summary: "Nothing is set aside.",
		Devices: []deviceDoc{}, Rows: []rowDoc{}, RowCount: len(q.Rows),
	}
	var parts []string
	if d := q.Device; d != nil {
		parts = append(parts, "The session that was there before is kept and can be restored, until another phone is linked.")
		dev := deviceDoc{
			Account: h.peer(d.JID.String()), Since: stamp(d.At), Reason: h.text(d.Reason), Why: h.mask(d.Reason),
			WhatToDo: "If it was logged out in error, restore it. If WhatsApp has really removed it, it says so at the next login, and the session is set aside again.",
		}
		if means := ended(d.Reason); means != "" {
			dev.Why = means
		} else if dev.Why == "" {
			dev.Why = "Nobody said why."
		}
		doc.Devices = append(doc.Devices, dev)
	}
	if n := len(q.Rows); n == 1 {
		parts = append(parts, "One row of the store was damaged and set aside; it counts as missing.")
	} else if n > 1 {
		parts = append(parts, fmt.Sprintf("%d rows of the store were damaged and set aside; they count as missing.", n))
	}
	if len(parts) > 0 {
		doc.Summary = strings.Join(parts, " ")
	}
	for _, row := range q.Rows[:min(len(q.Rows), maxRows)] {
		doc.Rows = append(doc.Rows, rowDoc{
			Kind: string(row.Kind), What: what(row.Kind), Peer: filled(h.peer(peerOf(row))), Since: stamp(row.At), Why: h.mask(row.Cause), Bytes: row.Size,
		})
	}
	return doc, nil
}

func (h *Handler) restoreDevice(w http.ResponseWriter, r *http.Request) {
	if _, ok := h.body(w, r); !ok {
		return
	}
	h.done(w, http.StatusOK, "restore-device", h.change(r.Context(), h.m.RestoreDevice))
}

func (h *Handler) purgeDevice(w http.ResponseWriter, r *http.Request) {
	if !h.purges(w, r, "purge-device") {
		return
	}
	h.done(w, http.StatusOK, "purge-device", h.change(r.Context(), h.m.PurgeDevice))
}

func (h *Handler) purgeRows(w http.ResponseWriter, r *http.Request) {
	if !h.purges(w, r, "purge-rows") {
		return
	}
	h.done(w, http.StatusOK, "purge-rows", h.change(r.Context(), h.m.PurgeRows))
}

// purges asks for {"confirm": word}.
func (h *Handler) purges(w http.ResponseWriter, r *http.Request, word string) bool {
	example := `{"confirm": "` + word + `"}`
	var in struct {
		Confirm string `json:"confirm"`
	}
	return h.asked(w, r, &in, example, "; this cannot be undone") && h.confirmed(w, in.Confirm, word, example)
}

// withStore runs f when nobody else's is running, or says what went wrong.
func (h *Handler) withStore(ctx context.Context, limit time.Duration, f func(context.Context) error) *refusal {
	// Answers that need no store are given at once.
	switch st := h.m.Status(); {
	case st.Closed:
		return h.problem(stability.ErrClosed)
	case st.Mode != stability.ModeActive:
		return h.problem(stability.ErrNotActive)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case h.store <- struct{}{}:
		defer func() { <-h.store }()
	case <-ctx.Done():
		return h.storeProblem(context.Cause(ctx))
	}
	if err := f(ctx); err != nil {
		return h.storeProblem(err)
	}
	return nil
}

// storeProblem turns an error of the store into an answer.
func (h *Handler) storeProblem(err error) *refusal {
	is := func(target error) bool { return errors.Is(err, target) }
	switch {
	case is(stability.ErrClosed), is(stability.ErrNotActive):
		return h.problem(err)
	case is(authstore.ErrFenced):
		return h.problem(stability.ErrNotActive)
	case is(stability.ErrAlreadyPaired):
		return &refusal{code: http.StatusConflict, word: "already_paired", message: "The account has a session: there is nothing to restore in its place."}
	case is(stability.ErrNoMessage):
		return &refusal{code: http.StatusNotFound, word: "no_message", message: "There is no such message any more, or nothing of it that could be handed over: look at the list again."}
	case is(stability.ErrMessageInHand):
		return &refusal{code: http.StatusConflict, word: "message_in_hand", message: "A handler of the program has this message at the moment: repeat the request when it has returned."}
	case is(stability.ErrMessageAtService):
		return &refusal{code: http.StatusConflict, word: "message_at_service", message: "WhatsApp has this message: it cannot be removed here. A refused one is delivered again at the next login."}
	case is(stability.ErrMessagesUnread):
		return &refusal{http.StatusServiceUnavailable, "messages_unread", "This instance has not read yet which messages wait. Repeat the request.", tryAgainAfter}
	case is(authstore.ErrNothingDeleted):
		return &refusal{code: http.StatusConflict, word: "nothing_deleted", message: "There is no deleted session: it was restored or removed, another phone was linked since, or there never was one."}
	case is(errors.ErrUnsupported):
		return &refusal{code: http.StatusNotImplemented, word: "not_supported", message: "The store of this program cannot do that: it is one of the program's own."}
	case is(authstore.ErrWrongKey), is(authstore.ErrSealed), is(authstore.ErrNotSealed), is(authstore.ErrNewerFormat), is(authstore.ErrCorrupt), is(authstore.ErrTooLarge):
		return &refusal{code: http.StatusBadGateway, word: "store_refused", message: "The store cannot do it, and trying again will not help: " + err.Error()}
	case is(context.DeadlineExceeded), is(context.Canceled):
		return &refusal{http.StatusServiceUnavailable, "not_in_time", "The backend did not answer in time. Repeat the request: it goes on where it stopped.", tryAgainAfter}
	}
	return &refusal{http.StatusServiceUnavailable, string(reconnect.ReasonStoreUnavailable), "The backend does not answer. The request may be repeated: " + err.Error(), tryAgainAfter}
}

// what says in plain words what a row was, and what its loss means.
func what(kind authstore.Kind) string {
	switch kind {
	case "session":
		return "The encryption state with one contact's device. A new one is made with the next message; one message may be asked for again."
	case "identity":
		return "Identity keys of some contacts. They are learned again with the next message."
	case "prekey":
		return "One-time keys that new contacts begin with. New ones are uploaded; a first message may be asked for again."
	case "senderkey":
		return "The key of one member of a group. It is asked for again with that member's next message."
	case "appkey", "appstate", "appmac":
		return "Settings that are synchronised with the phone. They are fetched again."
	case "contact":
		return "Names of some contacts. They come again with the next message or synchronisation."
	case "chat":
		return "Settings of some chats (muted, pinned, archived)."
	case "token":
		return "Privacy tokens of some contacts. New ones come with their messages."
	case "lid":
		return "Which number belongs to which hidden id, of some contacts. It is learned again."
	case "event", "seen":
		return "The note of messages that were received. One that was being handed over may be lost; others may be handed over twice."
	case "secret":
		return "The secret of one message: votes and reactions to it cannot be read."
	case "outgoing":
		return "A message that was sent: it cannot be sent again if its receiver asks."
	case "message":
		return "The note of a message that no handler had taken. If it held its content, the message is lost; a refused one comes again from WhatsApp."
	case "misc":
		return "A counter of the store. It is made anew."
	case "device", "account":
		return "The credentials."
	}
	return "A part of the store that has no name here."
}

// peerOf is whom a row is about, where its id says that.
func peerOf(row authstore.QuarantinedRow) string {
	_, id, ok := strings.Cut(row.ID, "/") // without the generation
	if !ok || strings.HasPrefix(id, "~") {
		return ""
	}
	switch row.Kind {
	case "session":
		return id
	case "senderkey": // sender, then group
		if sender, group, ok := strings.Cut(id, "/"); ok {
			return sender + " in " + group
		}
	}
	return ""
}

// peer masks every long run of digits, also within names: ids of old groups
// begin with the number of who made them.
func (h *Handler) peer(s string) string {
	if h.numbers {
		return s
	}
	out := []byte(s)
	for i := 0; i < len(out); i++ {
		end := i
		for end < len(out) && digit(out[end]) {
			end++
		}
		if end-i >= 5 {
			for k := i; k < end-2; k++ {
				out[k] = '*'
			}
		}
		i = max(i, end-1)
	}
	return string(out)
}
