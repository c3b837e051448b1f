package guard

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

type webhookConfig struct {
	url              *url.URL
	secret           []byte
	header           http.Header
	transport        http.RoundTripper
	logger           *slog.Logger
	timeout          time.Duration
	initial, longest time.Duration
	account          string
	link             func(Incident) string
	server           string // in place of a preset's public address
	encode           encoder
	errs             []error
}

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

// WithWebhookAccount names the account whose incidents these are: in the text,
// and in the key by which PagerDuty and Alertmanager tell troubles apart. Each
// account of a program needs its own. Give it a name, not a phone number.
// Default: none.
func WithWebhookAccount(name string) WebhookOption {
	return func(c *webhookConfig) { c.account = name }
}

// WithWebhookLink gives the address of a page about an incident, for example
// this program's admin page. It is called with each attempt, from the Webhook's
// goroutine, and must return at once. An address that is not an absolute http
// or https URL, has credentials in it or is longer than 1,000 bytes is left
// out. Default: none.
func WithWebhookLink(link func(inc Incident) string) WebhookOption {
	return func(c *webhookConfig) {
		if link == nil {
			c.fail("WithWebhookLink(nil): pass a function, or leave the option out")
			return
		}
		c.link = link
	}
}

// WithWebhookServer replaces the public address of a service that has several:
// https://events.eu.pagerduty.com for PagerDuty's accounts in Europe, or a
// Telegram Bot API server of your own. The path is added.
func WithWebhookServer(base string) WebhookOption {
	return func(c *webhookConfig) { c.server = base }
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
