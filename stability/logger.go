package stability

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	waBinary "go.mau.fi/whatsmeow/binary"
	waLog "go.mau.fi/whatsmeow/util/log"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability/internal/book"
)

// tap is a whatsmeow logger that also looks at what the client receives and
// sends.
// whatsmeow prints every received stanza to its "Recv" logger in the goroutine
// that reads the socket, before anything is queued: so the reason of an end is
// known there even when the events come late, twice or never.
type tap struct {
	inner  waLog.Logger
	recv   bool
	send   bool
	target *atomic.Pointer[attachment] // the client this logger was given to; set by Attach
}

func newTap(inner waLog.Logger) *tap {
	return &tap{inner: inner, target: new(atomic.Pointer[attachment])}
}

func (t *tap) Sub(module string) waLog.Logger {
	return &tap{inner: t.inner.Sub(module), recv: t.recv || module == "Recv", send: t.send || module == "Send", target: t.target}
}

func (t *tap) Debugf(msg string, args ...any) {
	if t.recv && len(args) == 1 {
		if a := t.target.Load(); a != nil {
			if st, ok := look(args[0]); ok {
				a.received(st, args[0])
			}
		}
	}
	if t.send && len(args) == 1 {
		if a := t.target.Load(); a != nil {
			if !a.hears.Load() {
				_, ok := look(args[0])
				a.hears.Store(ok)
			}
			if s, ok := lookSent(args[0]); ok {
				a.m.sends.sent(s)
				a.sent(s)
			} else if id := lookPing(args[0]); id != "" {
				a.m.counts.pinged(id)
			} else if id := lookAck(args[0]); id != "" {
				a.m.received.acknowledged(id)
			}
		}
	}
	t.inner.Debugf(msg, args...)
}

// stanza is what the tap takes from a received stanza.
type stanza struct {
	tag   string
	typ   string          // attribute type, of an iq
	id    string          // attribute id, of an iq
	ack   answer          // of an ack to a message
	limit string          // of a notification about a restriction of the account: what it says
	cause reconnect.Cause // if it ends the connection
	ends  bool
}

// look takes a stanza from what whatsmeow gives its receive logger: a text,
// the stanza itself in newer versions, or whatever can be printed. Only the
// tag and a few attributes are looked at: most stanzas are never rendered.
func look(arg any) (stanza, bool) {
	switch v := arg.(type) {
	case string:
		return lookText(v)
	case *waBinary.Node:
		if v == nil || v.Tag == "" {
			return stanza{}, false
		}
		st := stanza{tag: v.Tag}
		if v.Tag == "iq" {
			st.typ, _ = v.Attrs["type"].(string)
			st.id, _ = v.Attrs["id"].(string)
		}
		if v.Tag == "ack" {
			st.ack = ackIn(v)
		}
		if v.Tag == "notification" && v.Attrs["type"] == "mex" {
			st.limit = limitIn(v)
		}
		st.cause, st.ends = reconnect.ClassifyNode(v)
		return st, true
	case waBinary.Node:
		return look(&v)
	case fmt.Stringer:
		return lookText(printed(v))
	}
	return stanza{}, false
}

// keyIn is the key of the message that whatsmeow gave its receive logger.
func keyIn(arg any) book.Key {
	switch v := arg.(type) {
	case *waBinary.Node:
		return keyOf(v)
	case waBinary.Node:
		return keyOf(&v)
	case fmt.Stringer:
		return keyInText(printed(v))
	}
	text, _ := arg.(string)
	return keyInText(text)
}

// keyInText reads the attributes in the order in which they are printed: by
// name. Of those that a sender chooses, the push name stands between them.
func keyInText(text string) (k book.Key) {
	value := func(at int, name string) string {
		if at < 0 {
			return ""
		}
		v, _, _ := strings.Cut(text[at+len(name):], `"`)
		return v
	}
	const from, id, participant = ` from="`, ` id="`, ` participant="`
	k.Chat = value(strings.Index(text, from), from)
	k.ID = value(strings.Index(text, id), id)
	head, _, _ := strings.Cut(text, "\"><")
	k.Sender = value(strings.LastIndex(head, participant), participant)
	return k
}

// printed is v's text; none if printing it panics, as a nil pointer may.
func printed(v fmt.Stringer) (text string) {
	defer func() {
		if recover() != nil {
			text = ""
		}
	}()
	return v.String()
}

func lookText(text string) (stanza, bool) {
	if len(text) < 2 || text[0] != '<' {
		return stanza{}, false
	}
	end := strings.IndexAny(text, " />")
	if end < 2 {
		return stanza{}, false
	}
	st := stanza{tag: text[1:end]}
	if st.tag == "iq" {
		head, _, _ := strings.Cut(text, ">")
		st.typ, st.id = attribute(head, "type"), attribute(head, "id")
	}
	if st.tag == "ack" {
		st.ack = ackInText(text)
	}
	if st.tag == "notification" {
		st.limit = limitInText(text)
	}
	st.cause, st.ends = reconnect.ClassifyStanza(text)
	return st, true
}

func (t *tap) Infof(msg string, args ...any)  { t.inner.Infof(msg, args...) }
func (t *tap) Warnf(msg string, args ...any)  { t.inner.Warnf(msg, args...) }
func (t *tap) Errorf(msg string, args ...any) { t.inner.Errorf(msg, args...) }

// slogger writes whatsmeow's log lines to slog. Stanzas hold phone numbers and
// whatsmeow prints them at debug level, so they appear there and nowhere else;
// its warnings may name a sender, so they are written at debug level too.
type slogger struct {
	log    *slog.Logger
	module string
}

func (l *slogger) write(level slog.Level, msg string, args []any) {
	shown := level
	if level == slog.LevelWarn {
		shown = slog.LevelDebug
	}
	if !l.log.Enabled(context.Background(), shown) {
		return
	}
	l.log.Log(context.Background(), shown, "whatsmeow",
		"module", l.module, "whatsmeowLevel", level.String(), "text", fmt.Sprintf(msg, args...))
}

func (l *slogger) Debugf(msg string, args ...any) { l.write(slog.LevelDebug, msg, args) }
func (l *slogger) Infof(msg string, args ...any)  { l.write(slog.LevelDebug, msg, args) }
func (l *slogger) Warnf(msg string, args ...any)  { l.write(slog.LevelWarn, msg, args) }

// Errorf keeps its level for lines that hold no address and that are not about
// the socket: the end of a connection is reported by the Manager, with its
// reason.
func (l *slogger) Errorf(msg string, args ...any) {
	level := slog.LevelError
	if strings.HasSuffix(l.module, "Socket") || strings.Contains(fmt.Sprintf(msg, args...), "@") {
		level = slog.LevelWarn
	}
	l.write(level, msg, args)
}

func (l *slogger) Sub(module string) waLog.Logger {
	if l.module != "" {
		module = l.module + "/" + module
	}
	return &slogger{log: l.log, module: module}
}

// Logger returns a logger for whatsmeow.NewClient. It passes everything on to inner (nil:
// WithWhatsmeowLogger's) and lets the Manager see why the server ends a connection before
// whatsmeow says so. It cannot be installed later, because whatsmeow fixes its receive
// logger when a client is made. Each client needs its own.
func (m *Manager) Logger(inner waLog.Logger) waLog.Logger {
	if inner == nil {
		inner = m.cfg.whatsmeowLogger
	}
	if inner == nil {
		inner = &slogger{log: m.cfg.logger}
	}
	return newTap(inner)
}
