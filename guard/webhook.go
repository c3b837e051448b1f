package guard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Webhook is a Sink that posts every change to a URL. See NewWebhook.
type Webhook struct {
	cfg    webhookConfig
	host   string // for log lines: path and query may hold a secret
	client *http.Client
	life   context.Context // ends when Close has waited long enough
	end    context.CancelFunc
	closed chan struct{} // closed when Close begins

	mu       sync.Mutex
	queue    []*parcel     // the next one to send first; one per incident
	done     chan struct{} // closed when the worker ends; nil while none runs
	failing  bool          // the last attempt failed
	finished bool          // Close was called
	unsaid   []func()      // lines for the log, written behind the unlock
}

// unlock unlocks mu. The host's log is not called under it.
func (w *Webhook) unlock() {
	unsaid := w.unsaid
	w.unsaid = nil
	w.mu.Unlock()
	for _, say := range unsaid {
		say()
	}
}

func (w *Webhook) logLocked(level slog.Level, text string, attrs ...any) {
	w.unsaid = append(w.unsaid, func() { w.cfg.logger.Log(context.Background(), level, text, attrs...) })
}

// parcel is the newest state of one incident that is still to be delivered.
type parcel struct {
	n        Notification
	delivery string
	// known says that the receiver may know the incident to be open: an
	// earlier opening was delivered, or may have been.
	known   bool
	sending bool
	changed bool // a newer state came while an older one was being sent
}

// maxParcels bounds the queue, whoever makes up the ids.
const maxParcels = 256

// NewWebhook returns a Sink that posts a WebhookBody to target, an http or
// https URL; credentials in it are sent as basic authentication. It does no
// I/O. Close it when done; a Manager closes the sinks it was given.
//
// Notify never blocks. News to be delivered is kept in one entry per incident,
// which holds its newest state only. A receiver that is down for an hour costs
// nothing, and is then told the present state, once. An incident that was
// opened and resolved before its opening could have arrived is not delivered
// at all. One whose opening may have arrived, from here or from another
// instance, is delivered as resolved.
//
// An attempt fails when there is no answer within the timeout, or the answer
// is 408, 425, 429 or 5xx. It is repeated until it works, a newer state takes
// its place, or Close. The pauses grow; a Retry-After of up to the longest
// pause is respected, as header or as Discord's and Telegram's retry_after in
// the answer. Any other 3xx or 4xx is permanent: it is logged once and the
// delivery is given up. Redirects are not followed. A delivery may arrive
// twice if its answer was lost: WebhookBody.Delivery tells.
//
// One goroutine runs while there is something to deliver.
func NewWebhook(target string, opts ...WebhookOption) (*Webhook, error) {
	return newWebhook(preset{target: target, encode: encodePlain}, opts)
}

// newWebhook makes a Webhook that posts to p what p's encoder makes of a change.
func newWebhook(p preset, opts []WebhookOption) (*Webhook, error) {
	c := webhookConfig{
		header: http.Header{}, logger: slog.Default(), encode: p.encode, errs: p.errs,
		timeout: 10 * time.Second, initial: time.Second, longest: time.Minute,
	}
	for _, o := range opts {
		if o == nil {
			c.fail("a nil WebhookOption: leave it out")
			continue
		}
		o(&c)
	}
	target := p.target
	switch {
	case p.server != "":
		target = strings.TrimSuffix(cmp.Or(c.server, p.server), "/") + p.path
	case c.server != "":
		c.fail("WithWebhookServer is for PagerDuty and Telegram: pass the whole URL as the target here")
	}
	u, err := url.Parse(target)
	switch {
	case err != nil: // the error repeats the URL, credentials included
		c.fail("the URL does not parse: pass an absolute http or https URL")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		c.fail("the URL is not an absolute http or https one: pass for example https://example.com/hook")
	}
	c.url = u
	if c.longest < c.initial {
		c.fail("WithWebhookBackoff(%s, %s): the longest pause is shorter than the first", c.initial, c.longest)
	}
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	if c.transport == nil {
		c.transport = defaultTransport()
	}
	w := &Webhook{
		cfg: c, host: u.Host, closed: make(chan struct{}),
		client: &http.Client{
			Transport:     c.transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	w.life, w.end = context.WithCancel(context.Background())
	return w, nil
}

// defaultTransport has the settings of http.DefaultTransport; where a host has
// put something around that (tracing, a mock), it is that itself.
func defaultTransport() http.RoundTripper {
	def, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return http.DefaultTransport
	}
	t := def.Clone()
	t.DisableKeepAlives = true // incidents are rare, and nothing shall outlive Close
	return t
}

// Notify notes the change for delivery. It never blocks. After Close it does
// nothing.
func (w *Webhook) Notify(n Notification) {
	w.mu.Lock()
	defer w.unlock()
	if w.finished || n.Incident.ID == "" {
		return
	}
	if !w.noteLocked(n) || w.done != nil {
		return
	}
	w.done = make(chan struct{})
	go w.work(w.done)
}

// noteLocked puts the newest state of an incident into its entry. False when
// there is nothing to deliver about it.
func (w *Webhook) noteLocked(n Notification) bool {
	for i, p := range w.queue {
		if p.n.Incident.ID != n.Incident.ID {
			continue
		}
		if n.Change == ChangeResolved && p.n.Change == ChangeOpened && !p.known && !p.sending {
			w.queue = append(w.queue[:i], w.queue[i+1:]...)
			return false // nobody heard of it
		}
		p.known = p.known || p.n.Change == ChangeResolved
		p.n, p.delivery, p.changed = n, newDelivery(), p.sending
		return true
	}
	if len(w.queue) == maxParcels {
		w.logLocked(slog.LevelError, "the webhook's queue is full; the oldest incident is left out", "host", w.host, "incident", w.queue[0].n.Incident.ID)
		w.queue = append(w.queue[:0], w.queue[1:]...)
	}
	w.queue = append(w.queue, &parcel{n: n, delivery: newDelivery(), known: n.Change == ChangeResolved})
	return true
}

// Flush waits until everything noted so far was delivered or given up, or ctx
// ends. For a process that is about to exit.
func (w *Webhook) Flush(ctx context.Context) error {
	w.mu.Lock()
	done := w.done
	w.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("guard: webhook: flush: %w", context.Cause(ctx))
	}
}

// Close ends the deliveries: the attempt in flight may finish, and what has not
// been tried since the receiver last answered is tried once, all within the
// timeout of one attempt. It returns when the goroutine has ended. A second
// Close waits too.
func (w *Webhook) Close() error {
	w.mu.Lock()
	if !w.finished {
		w.finished = true
		close(w.closed)
	}
	done := w.done
	w.mu.Unlock()
	if done != nil {
		late := time.AfterFunc(w.cfg.timeout, w.end)
		<-done
		late.Stop()
	}
	w.end()
	return nil
}

// work delivers until there is nothing left.
func (w *Webhook) work(done chan struct{}) {
	defer close(done)
	pauses := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(w.cfg.initial), backoff.WithMaxInterval(w.cfg.longest),
		backoff.WithMultiplier(2), backoff.WithRandomizationFactor(0.2), backoff.WithMaxElapsedTime(0),
	)
	for {
		p, n, delivery := w.next()
		if p == nil {
			return
		}
		result := w.post(n, delivery)
		w.settle(p, result)
		if !result.again {
			pauses.Reset()
			continue
		}
		timer := time.NewTimer(max(pauses.NextBackOff(), min(result.after, w.cfg.longest)))
		select {
		case <-timer.C:
		case <-w.closed:
			timer.Stop()
		}
	}
}

// next takes the first parcel; nil means that the worker ends.
func (w *Webhook) next() (*parcel, Notification, string) {
	w.mu.Lock()
	defer w.unlock()
	if w.finished && len(w.queue) > 0 && w.failing {
		w.logLocked(slog.LevelError, "incidents were not delivered before the end", "host", w.host, "count", len(w.queue))
		w.queue = nil
	}
	if len(w.queue) == 0 {
		w.queue, w.done, w.failing = nil, nil, false
		return nil, Notification{}, ""
	}
	p := w.queue[0]
	p.sending, p.changed = true, false
	return p, p.n, p.delivery
}

// settle does what the outcome of an attempt asks for.
func (w *Webhook) settle(p *parcel, r outcome) {
	w.mu.Lock()
	defer w.unlock()
	p.sending = false
	p.known = p.known || r.arrived
	i := 0
	for i < len(w.queue) && w.queue[i] != p {
		i++
	}
	if i == len(w.queue) {
		return // left out by a full queue
	}
	w.queue = append(w.queue[:i], w.queue[i+1:]...)
	switch {
	case p.changed && p.n.Change == ChangeResolved && !p.known:
		// Resolved while its opening was on the way, which never arrived.
	case p.changed, r.again:
		w.queue = append(w.queue, p) // others take their turn
	}
	w.logOutcomeLocked(p, r)
}

func (w *Webhook) logOutcomeLocked(p *parcel, r outcome) {
	was := w.failing
	w.failing = r.again
	switch {
	case r.again && !was:
		w.logLocked(slog.LevelWarn, "the webhook does not take incidents; they are sent again until it does", "host", w.host, "incident", p.n.Incident.ID, "error", r.err)
	case r.again:
	case r.err != nil:
		w.logLocked(slog.LevelError, "the webhook refuses an incident, which is not sent again: check URL and credentials", "host", w.host, "incident", p.n.Incident.ID, "error", r.err)
	case was:
		w.logLocked(slog.LevelInfo, "the webhook takes incidents again", "host", w.host)
	}
}
