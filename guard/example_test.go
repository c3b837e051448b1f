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
type mailer struct {
	queue chan guard.Notification
	done  chan struct{}
	send  func(letter string) error
}

func newMailer(send func(letter string) error) *mailer {
	m := &mailer{queue: make(chan guard.Notification, 64), done: make(chan struct{}), send: send}
	go m.work()
	return m
}

func (m *mailer) Notify(n guard.Notification) {
	select {
	case m.queue <- n:
	default: // the mail server hangs: the incident itself is in the store
	}
}

// Close sends the rest. The Manager calls it in its own Close.
func (m *mailer) Close() error {
	close(m.queue)
	<-m.done
	return nil
}

func (m *mailer) work() {
	defer close(m.done)
	for n := range m.queue {
		letter := fmt.Sprintf("Subject: %s %s\n\n%s\n", n.Incident.Type, n.Change, n.Incident.Instructions)
		if err := m.send(letter); err != nil {
			slog.Error("no letter about an incident", "error", err)
		}
	}
}

func bySMTP(letter string) error {
	login := smtp.PlainAuth("", "bot@example.com", os.Getenv("SMTP_PASSWORD"), "smtp.example.com")
	return smtp.SendMail("smtp.example.com:587", login, "bot@example.com", []string{"ops@example.com"}, []byte(letter))
}

func onScreen(letter string) error {
	_, err := fmt.Print(letter)
	return err
}

var _ = bySMTP

// E-mail is the host's part: it knows the server and the addresses.
func ExampleSink() {
	m := newMailer(onScreen) // a program passes bySMTP
	var sink guard.Sink = m  // for stability.WithSink
	sink.Notify(guard.Notification{Change: guard.ChangeOpened, Incident: guard.Incident{
		Type: guard.TypeDisconnectStuck, Instructions: "Look at the page of the account.",
	}})
	_ = m.Close()
	// Output:
	// Subject: wa_disconnect_stuck opened
	//
	// Look at the page of the account.
}
