package guard

import (
	"context"
	"log/slog"
)

// logged is the evidence that goes into log lines. The detail is left out: it
// is free text, and a log is read by more people than an incident.
var logged = [...]string{"reason", "code", "since", "retryCount", "nextRetryAt", "notBefore", "terms"}

// NewSlogSink returns a Sink that writes one line per change: "incident
// opened" at warn level, "incident resolved" at info level. The message is
// constant, everything else is an attribute; no phone numbers. A nil logger
// means slog.Default() at the time of the call. It is safe for concurrent use
// and blocks for as long as the logger's handler does.
func NewSlogSink(l *slog.Logger) Sink {
	if l == nil {
		l = slog.Default()
	}
	return slogSink{l}
}

type slogSink struct{ log *slog.Logger }

func (s slogSink) Notify(n Notification) {
	inc := n.Incident
	level, msg := slog.LevelWarn, "incident opened"
	if n.Change == ChangeResolved {
		level, msg = slog.LevelInfo, "incident resolved"
	}
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs, slog.String("incident", inc.ID), slog.String("type", string(inc.Type)))
	if inc.InstanceID != "" {
		attrs = append(attrs, slog.String("instance", inc.InstanceID))
	}
	if !inc.DetectedAt.IsZero() {
		attrs = append(attrs, slog.Time("detectedAt", inc.DetectedAt.UTC()))
	}
	if n.Change == ChangeResolved && !inc.DetectedAt.IsZero() {
		attrs = append(attrs, slog.Duration("lasted", n.At.Sub(inc.DetectedAt)))
	}
	for _, name := range logged {
		if v := inc.Evidence[name]; v != "" {
			attrs = append(attrs, slog.String(name, v))
		}
	}
	if n.Change != ChangeResolved && inc.Instructions != "" {
		attrs = append(attrs, slog.String("instructions", inc.Instructions))
	}
	s.log.LogAttrs(context.Background(), level, msg, attrs...)
}
