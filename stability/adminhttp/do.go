package adminhttp

import (
	"context"
	"net/http"
	"net/url"
)

// The buttons of the page. Each is a form that works without a script.

// deed is what one button does. run returns the word for what is said then.
type deed struct {
	confirm bool // a box must be ticked
	run     func(h *Handler, ctx context.Context, form url.Values) (said string, no *refusal)
}

var deeds = map[string]deed{
	"reconnect": {run: func(h *Handler, _ context.Context, _ url.Values) (string, *refusal) {
		return "reconnect", h.askReconnect()
	}},
	"pair": {run: func(h *Handler, ctx context.Context, form url.Values) (string, *refusal) {
		phone, ok := number(form.Get("phone"))
		if !ok {
			return "", badPhone
		}
		_, no := h.askPhoneCode(ctx, phone)
		return "pair", no
	}},
	"logout": {true, func(h *Handler, ctx context.Context, _ url.Values) (string, *refusal) { return h.askLogout(ctx) }},
	"restore-device": {run: func(h *Handler, ctx context.Context, _ url.Values) (string, *refusal) {
		return "restore-device", h.change(ctx, h.m.RestoreDevice)
	}},
	"purge-device": {true, func(h *Handler, ctx context.Context, _ url.Values) (string, *refusal) {
		return "purge-device", h.change(ctx, h.m.PurgeDevice)
	}},
	"purge-rows": {true, func(h *Handler, ctx context.Context, _ url.Values) (string, *refusal) {
		return "purge-rows", h.change(ctx, h.m.PurgeRows)
	}},
	"redeliver": {run: func(h *Handler, ctx context.Context, form url.Values) (string, *refusal) {
		return "redeliver", h.change(ctx, func(ctx context.Context) error { return h.m.Redeliver(ctx, form.Get("entry")) })
	}},
	"purge-message": {true, func(h *Handler, ctx context.Context, form url.Values) (string, *refusal) {
		return "purge-message", h.change(ctx, func(ctx context.Context) error { return h.m.PurgeMessage(ctx, form.Get("entry")) })
	}},
}

// said is what is said of a change that was made.
var said = map[string]string{
	"reconnect":      "Asked for. The status says what becomes of it.",
	"pair":           "There is a code to type into the phone. It is shown below.",
	"logout":         "This device was removed from the account. If the program runs the Manager, a new code to scan follows.",
	"logout-listed":  "The device was removed here. There was no connection, so the phone still lists it: remove it there by hand, under Linked devices.",
	"restore-device": "The session that was set aside is the account's again. If the program runs the Manager, it connects with it now.",
	"purge-device":   "The deleted session was removed for good. To use the account, link the phone again.",
	"purge-rows":     "The damaged rows were removed for good.",
	"redeliver":      "It is handed over to the program again. The list says what becomes of it.",
	"purge-message":  "The message was removed for good.",
}

// change changes what is stored. It goes on when its caller has gone.
func (h *Handler) change(ctx context.Context, f func(context.Context) error) *refusal {
	return h.withStore(context.WithoutCancel(ctx), writeFor, f)
}

// act does what a button asks, and sends the browser back to the page, which
// says what was done. A refusal is shown at once.
func (h *Handler) act(w http.ResponseWriter, r *http.Request, c *caller) {
	form, no := readForm(w, r)
	if no == nil {
		no = c.genuine(r, form.Get("csrf"))
	}
	var word string
	if no == nil {
		word, no = h.perform(r.Context(), form)
	}
	if no != nil {
		h.show(w, r, c, no)
		return
	}
	seeOther(w, "./?done="+word)
}

func (h *Handler) perform(ctx context.Context, form url.Values) (string, *refusal) {
	word := form.Get("do")
	d, ok := deeds[word]
	switch {
	case !ok:
		return "", &refusal{code: http.StatusBadRequest, word: "unknown", message: "This page is of another version: load it anew."}
	case d.confirm && form.Get("confirm") != word:
		return "", &refusal{code: http.StatusBadRequest, word: "not_confirmed", message: "Nothing was done: tick the box first."}
	}
	return d.run(h, ctx, form)
}

// readForm reads a small form.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, *refusal) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		return nil, &refusal{code: http.StatusBadRequest, word: "bad_form", message: "The form could not be read."}
	}
	return r.PostForm, nil
}
