package adminhttp

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"go.mau.fi/whatsmeow"

	"github.com/wastability/wastability/stability"
)

// maxBody is the largest request body in bytes.
const maxBody = 4096

// body reads a small body, or answers with what is wrong with it.
func (h *Handler) body(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	if r.Body == nil {
		return nil, true
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		h.fail(w, http.StatusRequestEntityTooLarge, "body_too_large", "The body is larger than 4096 bytes.")
		return nil, false
	case err != nil:
		h.fail(w, http.StatusBadRequest, "bad_body", "The body could not be read to its end.")
		return nil, false
	}
	return data, true
}

// asked reads the JSON body into in, or answers with what was expected: example,
// and in words what else is to be known.
func (h *Handler) asked(w http.ResponseWriter, r *http.Request, in any, example, words string) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		h.fail(w, http.StatusUnsupportedMediaType, "not_json", "Send Content-Type: application/json and the body "+example+words+".")
		return false
	}
	data, ok := h.body(w, r)
	if !ok {
		return false
	}
	if err := json.Unmarshal(data, in); err != nil {
		h.unexpected(w, example, words)
		return false
	}
	return true
}

func (h *Handler) unexpected(w http.ResponseWriter, example, words string) {
	h.fail(w, http.StatusBadRequest, "bad_json", "The body is not as expected: send "+example+words+".")
}

// confirmed requires that the body says word: purged rows do not come back.
func (h *Handler) confirmed(w http.ResponseWriter, said, word, example string) bool {
	if said != word {
		h.fail(w, http.StatusBadRequest, "not_confirmed", "This cannot be undone. To go on, send "+example+".")
		return false
	}
	return true
}

// holder requires that this instance holds the lock: the request would wait
// for it else. A Manager that is closed says so itself.
func (h *Handler) holder() *refusal {
	if st := h.m.Status(); !st.Closed && st.Mode != stability.ModeActive {
		return h.problem(stability.ErrNotActive)
	}
	return nil
}

type pairDoc struct {
	Success bool   `json:"success"`
	Code    string `json:"code"`
	Message string `json:"message"`

	ExpiresAt   stamp `json:"expiresAt"`
	ExpiresInMs int64 `json:"expiresInMs"`
}

func (h *Handler) pair(w http.ResponseWriter, r *http.Request) {
	const example = `{"phone": "+49 1520 0000001"}`
	var in struct {
		Phone *string `json:"phone"`
	}
	if !h.asked(w, r, &in, example, "") {
		return
	}
	if in.Phone == nil {
		h.unexpected(w, example, "")
		return
	}
	phone, ok := number(*in.Phone)
	if !ok {
		h.told(w, badPhone)
		return
	}
	code, no := h.askPhoneCode(r.Context(), phone)
	if no != nil {
		h.told(w, no)
		return
	}
	h.json(w, http.StatusOK, pairDoc{Success: true, Code: code.Code, ExpiresAt: stamp(code.ExpiresAt), ExpiresInMs: max(0, time.Until(code.ExpiresAt).Milliseconds()),
		Message: "On the phone: Settings, Linked devices, Link a device, Link with phone number instead; then enter the code."})
}

var badPhone = &refusal{code: http.StatusBadRequest, word: "bad_phone", message: "That is no phone number: send it in the international form, with the country code, 7 to 15 digits."}

// askPhoneCode asks for a code to type into the phone, and remembers it for the
// page.
func (h *Handler) askPhoneCode(ctx context.Context, phone string) (stability.PhoneCode, *refusal) {
	if no := h.holder(); no != nil {
		return stability.PhoneCode{}, no
	}
	ctx, cancel := context.WithTimeout(ctx, h.pairFor)
	defer cancel()
	code, err := h.m.PairPhone(ctx, phone)
	if err != nil {
		return code, h.problem(err)
	}
	h.typed.Store(&code)
	return code, nil
}

// number takes the punctuation out of a phone number.
func number(s string) (string, bool) {
	s = strings.Map(func(r rune) rune {
		switch r {
		case '+', ' ', '-', '(', ')', '.', '/':
			return -1
		}
		return r
	}, strings.TrimSpace(s))
	if len(s) < 7 || len(s) > 15 || s[0] == '0' || strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		return "", false
	}
	return s, true
}

type doneDoc struct {
	Success bool   `json:"success"`
	Message string `json:"message"`
}

func (h *Handler) logout(w http.ResponseWriter, r *http.Request) {
	if _, ok := h.body(w, r); !ok {
		return
	}
	word, no := h.askLogout(r.Context())
	h.done(w, http.StatusOK, word, no)
}

func (h *Handler) askLogout(ctx context.Context) (word string, no *refusal) {
	if no := h.holder(); no != nil {
		return "", no
	}
	// Half a logout helps nobody: it goes on when the caller has gone.
	switch err := h.m.Logout(context.WithoutCancel(ctx)); {
	case errors.Is(err, stability.ErrStillListed):
		return "logout-listed", nil
	case err != nil:
		return "", h.problem(err)
	}
	return "logout", nil
}

func (h *Handler) reconnect(w http.ResponseWriter, r *http.Request) {
	if _, ok := h.body(w, r); !ok {
		return
	}
	h.done(w, http.StatusAccepted, "reconnect", h.askReconnect())
}

func (h *Handler) askReconnect() *refusal {
	st := h.m.Status()
	switch {
	case st.Closed:
		return h.problem(stability.ErrClosed)
	case st.Mode == stability.ModePassive:
		return h.problem(stability.ErrNotActive)
	case st.State.NotBefore.After(st.At):
		return &refusal{code: http.StatusConflict, word: "banned_for_now", message: "The account is banned until " + clock(st.State.NotBefore) + ". One attempt is made then, and none before: trying would make it worse."}
	}
	h.m.Reconnect()
	return nil
}

// done answers a call that changes something.
func (h *Handler) done(w http.ResponseWriter, code int, word string, no *refusal) {
	if no != nil {
		h.told(w, no)
		return
	}
	h.json(w, code, doneDoc{true, said[word]})
}

// told is the answer to who was refused.
func (h *Handler) told(w http.ResponseWriter, no *refusal) {
	no.retryAfter(w)
	h.fail(w, no.code, no.word, no.message)
}

const tryAgainAfter = 10 * time.Second

// problem turns an error of the Manager into an answer.
func (h *Handler) problem(err error) *refusal {
	for _, c := range []struct {
		is            error
		code          int
		word, message string
	}{
		{stability.ErrClosed, http.StatusServiceUnavailable, "closed", "The Manager is closed: start the program again."},
		{stability.ErrNotActive, http.StatusConflict, "not_active", "This instance does not hold the lock: ask the instance that does (the status names it as the lock's holder)."},
		{stability.ErrNotAttached, http.StatusConflict, "no_client", "The program has not made a client yet: try again after some seconds."},
		{stability.ErrAlreadyPaired, http.StatusConflict, "already_paired", "The account is paired already: log it out first to pair another phone."},
		{stability.ErrNotPaired, http.StatusConflict, "not_paired", "The account is not paired, so there is nothing to log out of."},
		{whatsmeow.ErrNotConnected, http.StatusConflict, "not_connected", "The connection ended before WhatsApp answered: try again."},
		{whatsmeow.ErrPhoneNumberTooShort, http.StatusBadRequest, "bad_phone", "The phone number is too short: send it with its country code."},
		{whatsmeow.ErrPhoneNumberIsNotInternational, http.StatusBadRequest, "bad_phone", "The phone number is not international: send it with its country code and without a leading zero."},
		{context.DeadlineExceeded, http.StatusServiceUnavailable, "not_in_time", "WhatsApp did not answer in time, or there was no connection to pair on: look at the status, and try again."},
		{context.Canceled, http.StatusServiceUnavailable, "not_in_time", "The request ended before there was an answer: try again."},
	} {
		if errors.Is(err, c.is) {
			no := &refusal{code: c.code, word: c.word, message: c.message}
			if c.code == http.StatusServiceUnavailable {
				no.wait = tryAgainAfter
			}
			return no
		}
	}
	return &refusal{code: http.StatusBadGateway, word: "refused", message: "WhatsApp did not do it: " + err.Error()}
}
