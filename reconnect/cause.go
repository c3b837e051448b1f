package reconnect

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types/events"
)

// Source says how a cause became known. Earlier is better informed.
type Source string

// The sources.
const (
	SourceTap     Source = "tap"   // a received stanza, before whatsmeow handled it
	SourceEvent   Source = "event" // a whatsmeow event
	SourceError   Source = "error" // what Connect returned
	SourceRaw     Source = "raw"   // the raw connection or a watchdog
	SourceHost    Source = "host"  // the host, the lock or the store
	SourceUnknown Source = ""
)

// sources is read only: the order in which Better prefers them.
var sources = []Source{SourceTap, SourceEvent, SourceError, SourceHost, SourceRaw, SourceUnknown}

// Cause is one piece of evidence of why a connection ended.
//
// Cause is an error too, so that code which connects can say what it knows:
//
//	return fmt.Errorf("open session: %w", reconnect.Cause{Reason: reconnect.ReasonStoreUnavailable, Err: err})
type Cause struct {
	Reason    Reason
	Code      int           // the code on the wire (503, 402, …), 0 when there was none
	Detail    string        // plain text for operators, without phone numbers
	Expire    time.Duration // temporary_ban: how long it lasts; 0 when the service did not say
	OnConnect bool          // the login was refused, as opposed to a session that was ended
	Source    Source
	Err       error // what it was found in; nil for stanzas and most events
}

// Error describes the cause.
func (c Cause) Error() string {
	var b strings.Builder
	b.WriteString("reconnect: ")
	b.WriteString(string(c.Reason))
	if c.Code != 0 {
		b.WriteString(" (" + strconv.Itoa(c.Code) + ")")
	}
	if c.Detail != "" {
		b.WriteString(": " + c.Detail)
	}
	return b.String()
}

// Unwrap returns Err.
func (c Cause) Unwrap() error { return c.Err }

// Classify says what a cause means, and whether it ends the connection.
//
// It understands a whatsmeow event, an error from Connect, a received stanza (a Stanza or
// a *binary.Node), a Reason, a Cause and an error that wraps one. A nil means that the
// connection ended and nobody knows why: connection_closed. Evidence that it does not
// know is no end: ends is false. It is pure and never panics.
//
// If ends is false, c still says what was seen if that is worth telling. A
// first unanswered ping is connection_lost that has not happened yet. After
// multidevice_mismatch the code on the screen stays valid.
//
// context.Canceled in an error is connection_closed: only the caller knows
// whose wish it was, and should say so with ReasonIntentional or
// ReasonLockLost, which outrank it.
func Classify(cause any) (c Cause, ends bool) {
	// Events first: this may be called for each of them.
	if c, ends, ok := classifyEvent(cause); ok {
		if c.Reason != ReasonNone && c.Source == SourceUnknown {
			c.Source = SourceEvent
		}
		return c, ends
	}
	switch v := cause.(type) {
	case nil:
		return Cause{Reason: ReasonConnectionClosed}, true
	case Reason:
		return Cause{Reason: v, Source: SourceHost}, v != ReasonNone
	case Cause:
		return v, v.Reason != ReasonNone
	case *Cause:
		if v == nil {
			return Cause{}, false
		}
		return *v, v.Reason != ReasonNone
	case Stanza:
		return ClassifyStanza(string(v))
	case *waBinary.Node:
		return ClassifyNode(v)
	case error:
		return classifyError(v)
	}
	return Cause{}, false
}

// classifyEvent handles the events that speak of an end; ok is false for all
// else. A nil pointer is no end.
func classifyEvent(evt any) (c Cause, ends, ok bool) {
	switch e := evt.(type) {
	case *events.Disconnected:
		return Cause{Reason: ReasonConnectionClosed}, e != nil, true
	case *events.StreamReplaced:
		return Cause{Reason: ReasonConnectionReplaced}, e != nil, true
	case *events.ManualLoginReconnect:
		return Cause{Reason: ReasonRestartRequired, Code: 515}, e != nil, true
	case *events.ClientOutdated:
		return Cause{Reason: ReasonClientOutdated, Code: 405, OnConnect: true}, e != nil, true
	case *events.QRScannedWithoutMultidevice:
		return Cause{Reason: ReasonMultideviceMismatch}, false, true
	case *events.LoggedOut:
		if e == nil {
			return Cause{}, false, true
		}
		if !e.OnConnect { // the code is a constant there, not from the wire
			return Cause{Reason: ReasonLoggedOut, Code: 401, Detail: "the device was removed on the phone"}, true, true
		}
		return failure(int(e.Reason)), true, true
	case *events.TemporaryBan:
		if e == nil {
			return Cause{}, false, true
		}
		return ban(int(e.Code), e.Expire), true, true
	case *events.ConnectFailure:
		if e == nil {
			return Cause{}, false, true
		}
		c = failure(int(e.Reason))
		if c.Detail == "" {
			c.Detail = plain(e.Message)
		}
		return c, true, true
	case *events.StreamError:
		if e == nil {
			return Cause{}, false, true
		}
		return streamError(e.Code, "", ""), true, true
	case *events.CATRefreshError:
		if e == nil {
			return Cause{}, false, true
		}
		return Cause{Reason: ReasonConnectRejected, Detail: "the crypto auth token was refused and could not be refreshed", Err: e.Error}, true, true
	case *events.KeepAliveTimeout:
		if e == nil {
			return Cause{}, false, true
		}
		return Cause{Reason: ReasonConnectionLost, Detail: strconv.Itoa(e.ErrorCount) + " pings in a row were not answered"},
			e.ErrorCount >= 2, true
	case *events.PairError:
		if e == nil {
			return Cause{}, false, true
		}
		c, ends = pairError(e.Error)
		return c, ends, true
	}
	return passkeyEvent(evt)
}

// passkeyEvent handles the events of a pairing that asks for a passkey. They
// are known by name, since older versions of whatsmeow lack the types. None of
// them ends the connection by itself; the Manager ends one whose passkey step
// failed, since its codes cannot be scanned any more.
func passkeyEvent(evt any) (c Cause, ends, ok bool) {
	t := reflect.TypeOf(evt)
	if t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		return Cause{}, false, false
	}
	switch t.Elem().Name() {
	case "PairPasskeyRequest", "PairPasskeyConfirmation":
		return Cause{}, false, true
	case "PairPasskeyError":
		c = Cause{Reason: ReasonPairingFailed, Detail: "the passkey step of the pairing failed"}
		if v := reflect.ValueOf(evt); !v.IsNil() {
			if f := v.Elem().FieldByName("Error"); f.IsValid() && f.CanInterface() {
				c.Err, _ = f.Interface().(error)
			}
		}
		return c, false, true
	}
	return Cause{}, false, false
}

// failure maps the reason of a <failure>: a login that was refused.
func failure(code int) Cause {
	c := Cause{Reason: ReasonConnectRejected, Code: code, OnConnect: true}
	switch code {
	case 401:
		c.Reason = ReasonLoggedOut
	case 402:
		c.Reason = ReasonTemporaryBan
	case 403:
		c.Reason = ReasonAccountLocked
	case 405:
		c.Reason = ReasonClientOutdated
	case 406:
		c.Reason = ReasonAccountBanned
	case 411:
		c.Reason = ReasonMultideviceMismatch
	case 413, 414:
		c.Detail = "the crypto auth token was refused"
	case 500:
		c.Reason = ReasonBadSession
	case 503:
		c.Reason = ReasonServiceUnavailable
	}
	return c
}

// ban is a temporary ban. A time that makes no sense counts as not given.
func ban(code int, expire time.Duration) Cause {
	c := Cause{Reason: ReasonTemporaryBan, Code: 402, Expire: max(expire, 0), OnConnect: true}
	if code != 0 {
		c.Detail = plain(events.TempBanReason(code).String())
	}
	return c
}

// streamError maps a <stream:error>, exactly as whatsmeow will: the tap and
// the event of one stanza must agree.
func streamError(code, conflict, child string) Cause {
	c := Cause{Reason: ReasonBadSession, Code: wireCode(code)}
	switch {
	case code == "515":
		c.Reason = ReasonRestartRequired
	case code == "401" && conflict == "device_removed":
		c.Reason = ReasonLoggedOut
		c.Detail = "the device was removed on the phone"
	case conflict == "replaced":
		c.Reason = ReasonConnectionReplaced
	case code == "503":
		c.Reason = ReasonServiceUnavailable
	case code == "413" || code == "414":
		c.Reason = ReasonConnectRejected
		c.Detail = "the crypto auth token was refused"
	case code == "":
		c.Detail = "stream error without a code"
		if child != "" {
			c.Detail += ": " + plain(child)
		}
	case c.Code == 0:
		c.Detail = "stream error " + plain(code)
	}
	return c
}

func pairError(err error) (c Cause, ends bool) {
	defer survive(&c, &ends, err)
	if c, ok := ownError(err); ok {
		return c, true
	}
	return Cause{Reason: ReasonPairingFailed, Err: err, Detail: pairDetail(err)}, true
}

// wireCode is a code as a number, or 0.
func wireCode(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 99_999 {
		return 0
	}
	return n
}

// ownError finds what this library itself put into an error.
func ownError(err error) (Cause, bool) {
	if err == nil {
		return Cause{}, false
	}
	var c Cause
	if errors.As(err, &c) && c.Reason != ReasonNone {
		if c.Err == nil {
			c.Err = err
		}
		return c, true
	}
	if isLockError(err) {
		return Cause{Reason: ReasonLockLost, Source: SourceHost, Err: err, Detail: "a write was refused because another term holds the lock"}, true
	}
	return Cause{}, false
}

// maxDetail bounds Detail, in bytes.
const maxDetail = 200

// number is whatever may be a phone number: digits, perhaps in groups.
var number = regexp.MustCompile(`[0-9](?:[ ()/-]*[0-9]){5,}`)

// plain makes foreign text fit for operators: one line, printable, short, and
// with everything masked that may be a phone number.
func plain(s string) string {
	s = s[:min(len(s), 4*maxDetail)]
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			return ' '
		case r == utf8.RuneError || !strconv.IsPrint(r):
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(number.ReplaceAllString(s, "…"))
	if len(s) > maxDetail {
		s = strings.ToValidUTF8(s[:maxDetail], "") + "…"
	}
	return s
}

var _ fmt.Stringer = Reason("")

// String returns the reason's word, or "none".
func (r Reason) String() string {
	if r == ReasonNone {
		return "none"
	}
	return string(r)
}
