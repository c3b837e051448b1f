package adminhttp

import (
	"context"
	"net/http"
	"time"

	"github.com/wastability/wastability/stability"
)

// Received messages that no handler has taken yet, and what can be done with
// them. The list does no I/O: the Manager knows it.

// receivedDoc is wa.messages.received of status-now.
type receivedDoc struct {
	Read     bool    `json:"read"`  // it was read which messages wait
	Total    uint64  `json:"total"` // handled + waiting + setAside
	Handled  uint64  `json:"handled"`
	Repeated uint64  `json:"repeated"`
	Waiting  keptDoc `json:"waiting"`
	SetAside keptDoc `json:"setAside"`
	Removed  uint64  `json:"removed"` // were set aside; for their age, or since too many have no content
	// Redelivers: a new connection is made for what was refused.
	Redelivers bool               `json:"redelivers"`
	By         map[string]stateOf `json:"by"`     // by state; every state is there
	Missed     map[string]stateOf `json:"missed"` // the same without those that nobody misses

	PerhapsHandled groupDoc `json:"perhapsHandled"` // by a process that was killed meanwhile; counted nowhere else

	Text     *string `json:"text"`
	WhatToDo *string `json:"whatToDo"`
}

type groupDoc struct {
	Count  int   `json:"count"`
	Oldest stamp `json:"oldest"`
}

// keptDoc is a group of messages whose content may be stored.
type keptDoc struct {
	groupDoc
	ContentBytes int64 `json:"contentBytes"`
}

// stateOf is a group whose messages are in one state.
type stateOf struct {
	keptDoc
	Why *string `json:"why"` // of the message that was tried last
}

var messageStates = []stability.MessageState{
	stability.MessageQueued, stability.MessageInHand, stability.MessageAtService, stability.MessageRefused,
	stability.MessageKept, stability.MessageUndecrypted, stability.MessageLeftAlone, stability.MessageSetAside,
}

func (h *Handler) received(r stability.ReceivedMessages) receivedDoc {
	group := func(g stability.MessageGroup) groupDoc { return groupDoc{g.Count, stamp(g.Oldest)} }
	kept := func(g stability.MessageGroup) keptDoc { return keptDoc{group(g), g.Bytes} }
	states := func(by map[stability.MessageState]stability.MessageGroup) map[string]stateOf {
		all := make(map[string]stateOf)
		for _, s := range messageStates {
			all[string(s)] = stateOf{kept(by[s]), filled(short(h.mask(by[s].Why), 300))}
		}
		return all
	}
	return receivedDoc{
		Read: r.Read, Total: r.Total, Handled: r.Handled, Repeated: r.Repeated, Waiting: kept(r.Waiting), SetAside: kept(r.SetAside), Removed: r.Removed, Redelivers: r.Redelivers,
		By: states(r.By), Missed: states(r.Missed), PerhapsHandled: group(r.PerhapsHandled), Text: h.text(r.Text), WhatToDo: h.text(r.Do),
	}
}

// heldDoc is the answer of messages.
type heldDoc struct {
	Success   bool         `json:"success"`
	Timestamp stamp        `json:"timestamp"`
	Summary   string       `json:"summary"`
	Messages  []messageDoc `json:"messages"` // oldest first
	Count     int          `json:"count"`
}

type messageDoc struct {
	Entry      string                 `json:"entry"`
	State      stability.MessageState `json:"state"`
	ID         string                 `json:"id"`
	Chat       string                 `json:"chat"`
	Sender     string                 `json:"sender"`
	Sent       stamp                  `json:"sent"`
	Received   stamp                  `json:"received"`
	Since      stamp                  `json:"since"`
	LastTry    stamp                  `json:"lastTry"`
	Tries      int                    `json:"tries"`
	Why        string                 `json:"why"`
	HasContent bool                   `json:"hasContent"`
}

func (h *Handler) messages(w http.ResponseWriter, _ *http.Request) {
	h.json(w, http.StatusOK, h.held(maxRows))
}

// held lists the oldest n.
func (h *Handler) held(n int) heldDoc {
	list, st := h.m.Messages(), h.m.Status()
	r := st.Messages.Received
	text := r.Text
	switch {
	case text != "":
	case len(list)+r.Waiting.Count > 0:
		text = "Messages wait to be handled."
	case r.Read:
		text = "Every received message was handled."
	case st.Mode == stability.ModeActive:
		text = "This instance has not read yet which messages wait."
	default:
		text = "This instance does not hold the lock. Only an instance that holds it knows which messages wait."
	}
	doc := heldDoc{Success: true, Timestamp: stamp(time.Now()), Summary: h.mask(text), Messages: []messageDoc{}, Count: len(list)}
	for _, m := range list[:min(len(list), n)] {
		doc.Messages = append(doc.Messages, messageDoc{
			Entry: m.Entry, State: m.State, ID: m.ID, Chat: h.peer(m.Chat.String()), Sender: h.peer(m.Sender.String()),
			Sent: stamp(m.Sent), Received: stamp(m.ReceivedAt), Since: stamp(m.Since), LastTry: stamp(m.LastTry),
			Tries: m.Tries, Why: h.mask(m.Why), HasContent: m.HasContent,
		})
	}
	return doc
}

func (h *Handler) redeliver(w http.ResponseWriter, r *http.Request) {
	entry, ok := h.entry(w, r, "")
	if !ok {
		return
	}
	redeliver := func(ctx context.Context) error { return h.m.Redeliver(ctx, entry) }
	h.done(w, http.StatusOK, "redeliver", h.change(r.Context(), redeliver))
}

func (h *Handler) purgeMessage(w http.ResponseWriter, r *http.Request) {
	entry, ok := h.entry(w, r, "purge-message")
	if !ok {
		return
	}
	purge := func(ctx context.Context) error { return h.m.PurgeMessage(ctx, entry) }
	h.done(w, http.StatusOK, "purge-message", h.change(r.Context(), purge))
}

// entry reads which message is meant; with confirm that it is.
func (h *Handler) entry(w http.ResponseWriter, r *http.Request, confirm string) (string, bool) {
	want := `{"entry": "…"}`
	if confirm != "" {
		want = `{"entry": "…", "confirm": "` + confirm + `"}`
	}
	var in struct {
		Entry   string `json:"entry"`
		Confirm string `json:"confirm"`
	}
	const words = ", with an entry of the list of messages"
	if !h.asked(w, r, &in, want, words) {
		return "", false
	}
	if in.Entry == "" {
		h.unexpected(w, want, words)
		return "", false
	}
	return in.Entry, h.confirmed(w, in.Confirm, confirm, want)
}
