package guard_test

import (
	"fmt"
	"log/slog"
	"net/smtp"
	"os"

	"github.com/wastability/wastability/guard"
)

// mailer is a Sink that writes a letter about each change. Notify must not
// block, so the letters go through a queue.
type mailer struct{ queue chan guard.Notification }

func (m mailer) Notify(n guard.Notification) {
	select {
	case m.queue <- n:
	default: // the mail server hangs: the incident itself is in the store
	}
}

func (m mailer) work() {
	login := smtp.PlainAuth("", "bot@example.com", os.Getenv("SMTP_PASSWORD"), "smtp.example.com")
	for n := range m.queue {
		letter := fmt.Sprintf("Subject: %s %s\r\n\r\n%s\r\n\r\n%s\r\n", n.Incident.Type, n.Change, n.Incident.Instructions, n.Incident.Runbook)
		if err := smtp.SendMail("smtp.example.com:587", login, "bot@example.com", []string{"ops@example.com"}, []byte(letter)); err != nil {
			slog.Error("no letter about an incident", "error", err)
		}
	}
}

// E-mail is the host's part: it knows the server and the addresses.
func ExampleSink() {
	m := mailer{queue: make(chan guard.Notification, 64)}
	go m.work()
	var sink guard.Sink = m // for stability.WithSink
	_ = sink
}
