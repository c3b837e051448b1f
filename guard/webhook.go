package guard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
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

type webhookConfig struct {
	url              *url.URL
	secret           []byte
	header           http.Header
	transport        http.RoundTripper
	logger           *slog.Logger
	timeout          time.Duration
	initial, longest time.Duration
	errs             []error
}

// maxParcels bounds the queue, whoever makes up the ids.
const maxParcels = 256

// WebhookOption configures NewWebhook.
type WebhookOption func(*webhookConfig)

func (c *webhookConfig) fail(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("guard: webhook: "+format, args...))
}

func (c *webhookConfig) duration(option string, into *time.Duration, d time.Duration) {
	if d < 0 {
		c.fail("%s(%s) is negative: pass a duration above zero, or zero for the default", option, d)
		return
	}
	*into = cmp.Or(d, *into)
}

// WithWebhookSecret signs every request; VerifyWebhook is the other side. At
// least 16 bytes. Without it requests are not signed, and anybody who knows the
// receiver's URL can make up incidents.
func WithWebhookSecret(secret string) WebhookOption {
	return func(c *webhookConfig) {
		if len(secret) < minSecret {
			c.fail("WithWebhookSecret: the secret has fewer than %d bytes: make one with a random generator, for example openssl rand -hex 32", minSecret)
			return
		}
		c.secret = []byte(secret)
	}
}

const minSecret = 16

// WithWebhookHeader adds a header to every request, for example Authorization.
func WithWebhookHeader(name, value string) WebhookOption {
	return func(c *webhookConfig) { c.header.Set(name, value) }
}

// WithWebhookTransport sets how the receiver is reached: proxy, TLS roots.
// Default: http.DefaultTransport's settings, one connection per request; or
// http.DefaultTransport itself where that is no *http.Transport.
func WithWebhookTransport(t http.RoundTripper) WebhookOption {
	return func(c *webhookConfig) {
		if t == nil {
			c.fail("WithWebhookTransport(nil): pass a transport, or leave the option out")
			return
		}
		c.transport = t
	}
}

// WithWebhookLogger gets a line when deliveries begin to fail, when they work
// again and when one is given up. Default: slog.Default().
func WithWebhookLogger(l *slog.Logger) WebhookOption {
	return func(c *webhookConfig) {
		if l == nil {
			c.fail("WithWebhookLogger(nil): pass a logger, or leave the option out for slog.Default()")
			return
		}
		c.logger = l
	}
}

// WithWebhookTimeout bounds each attempt, from dial to the end of the answer.
// Default 10 s.
func WithWebhookTimeout(d time.Duration) WebhookOption {
	return func(c *webhookConfig) { c.duration("WithWebhookTimeout", &c.timeout, d) }
}

// WithWebhookBackoff sets the pause after a first failure and the longest one;
// between them it doubles, each varied by ±20 %. Default 1 s and 60 s.
func WithWebhookBackoff(initial, longest time.Duration) WebhookOption {
	return func(c *webhookConfig) {
		c.duration("WithWebhookBackoff", &c.initial, initial)
		c.duration("WithWebhookBackoff", &c.longest, longest)
	}
}

// NewWebhook returns a Sink that posts a WebhookBody to target, an http or
// https URL; credentials in it are sent as basic authentication. It does no
// I/O. Close it when done; a Manager closes the sinks it was given.
//
// Notify never blocks. What is to be delivered is kept in one slot per
// incident, which holds its newest state only: a receiver that is down for an
// hour costs nothing and is then told the present state, once. An incident that
// was opened and resolved before its opening could have arrived is not
// delivered at all; one whose opening may have arrived, from here or from
// another instance, is delivered as resolved.
//
// An attempt fails when there is no answer within the timeout, or the answer is
// 408, 425, 429 or 5xx: it is repeated, with growing pauses (a Retry-After of
// up to the longest pause is respected), until it works, a newer state takes
// its place, or Close. Any other 3xx or 4xx is permanent: it is logged once and
// the delivery is given up. Redirects are not followed. A delivery may arrive
// twice if its answer was lost: WebhookBody.Delivery tells.
//
// One goroutine runs while there is something to deliver.
func NewWebhook(target string, opts ...WebhookOption) (*Webhook, error) {
	c := webhookConfig{
		header: http.Header{}, logger: slog.Default(),
		timeout: 10 * time.Second, initial: time.Second, longest: time.Minute,
	}
	u, err := url.Parse(target)
	switch {
	case err != nil: // the error repeats the URL, credentials included
		c.fail("the URL does not parse: pass an absolute http or https URL")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		c.fail("the URL is not an absolute http or https one: pass for example https://example.com/hook")
	}
	c.url = u
	for _, o := range opts {
		if o == nil {
			c.fail("a nil WebhookOption: leave it out")
			continue
		}
		o(&c)
	}
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

// noteLocked puts the newest state of an incident into its slot. False when
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
		w.logLocked(slog.LevelError, "webhook queue is full, the oldest incident is left out", "host", w.host, "incident", w.queue[0].n.Incident.ID)
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
		w.logLocked(slog.LevelWarn, "webhook does not take incidents; trying again until it does", "host", w.host, "incident", p.n.Incident.ID, "error", r.err)
	case r.again:
	case r.err != nil:
		w.logLocked(slog.LevelError, "webhook refuses an incident; not tried again: check URL and credentials", "host", w.host, "incident", p.n.Incident.ID, "error", r.err)
	case was:
		w.logLocked(slog.LevelInfo, "webhook takes incidents again", "host", w.host)
	}
}
