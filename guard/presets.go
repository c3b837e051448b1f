package guard

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// preset is where a service takes incidents, and in which form.
type preset struct {
	target string // the whole URL, or
	server string // the service's public address
	path   string // and what is added to it
	encode encoder
	errs   []error
}

// encoder makes the JSON body of one request.
type encoder func(message) any

// message is what an encoder has to say.
type message struct {
	n        Notification
	delivery string
	account  string
	link     string
}

func (w *Webhook) message(n Notification, delivery string) message {
	m := message{n: n, delivery: delivery, account: w.cfg.account}
	if w.cfg.link != nil {
		link := w.cfg.link(n.Incident)
		if u, err := url.Parse(link); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil && len(link) <= 1000 {
			m.link = strings.ReplaceAll(u.String(), "@", "%40") // which would look like a mention
		}
	}
	return m
}

// NewSlack returns a Webhook that posts to a Slack incoming webhook, for
// example https://hooks.slack.com/services/…. Delivery works as described at
// NewWebhook. Foreign text cannot mention anybody or format anything.
func NewSlack(target string, opts ...WebhookOption) (*Webhook, error) {
	return newWebhook(preset{target: target, encode: encodeSlack}, opts)
}

// NewDiscord returns a Webhook that posts to a Discord webhook, for example
// https://discord.com/api/webhooks/…. Delivery works as described at
// NewWebhook. Foreign text cannot mention anybody or format anything.
func NewDiscord(target string, opts ...WebhookOption) (*Webhook, error) {
	return newWebhook(preset{target: target, encode: encodeDiscord}, opts)
}

// A bot's token, as Telegram gives it.
var telegramToken = regexp.MustCompile(`^\d+:[A-Za-z0-9_-]+$`)

// NewTelegram returns a Webhook that writes to a Telegram chat, as the bot
// that has the token. chat is a number, or @name of a public channel. The text
// is sent without a parse mode, so that nothing in it is markup. Delivery
// works as described at NewWebhook.
func NewTelegram(token, chat string, opts ...WebhookOption) (*Webhook, error) {
	p := preset{
		server: "https://api.telegram.org", path: "/bot" + token + "/sendMessage",
		encode: func(m message) any { return encodeTelegram(m, chat) },
	}
	if !telegramToken.MatchString(token) { // the error must not repeat it
		p.path = ""
		p.errs = append(p.errs, fmt.Errorf("guard: NewTelegram: the token has not the form 123456:ABC…: pass what @BotFather gave"))
	}
	if chat == "" {
		p.errs = append(p.errs, fmt.Errorf("guard: NewTelegram: no chat: pass its number, or @name of a public channel"))
	}
	return newWebhook(p, opts)
}

// NewPagerDuty returns a Webhook that triggers and resolves alerts by
// PagerDuty's Events API v2. routingKey is the service's integration key. The
// incident's id and the account are the dedup_key, so that whichever instance
// sees the end resolves the alert. Delivery works as described at NewWebhook.
func NewPagerDuty(routingKey string, opts ...WebhookOption) (*Webhook, error) {
	p := preset{
		server: "https://events.pagerduty.com", path: "/v2/enqueue",
		encode: func(m message) any { return encodePagerDuty(m, routingKey) },
	}
	if routingKey == "" || strings.ContainsAny(routingKey, " \t\r\n") {
		p.errs = append(p.errs, fmt.Errorf("guard: NewPagerDuty: the routing key is empty or has spaces: pass the integration key of an Events API v2 integration"))
	}
	return newWebhook(p, opts)
}

// NewAlertmanager returns a Webhook that posts alerts to a Prometheus
// Alertmanager at the address base, for example http://alertmanager:9093. The
// labels are alertname (the incident's type), severity, service and account;
// the instance is an annotation, so that whichever instance sees the end
// resolves the alert. Alertmanagers of a cluster need one Webhook each.
//
// An alert is posted once, with an end that is a year away, because an end
// that must be moved on would resolve it whenever this process dies. So an
// Alertmanager that has lost its memory learns of an open incident with its
// next opening only: where that matters, alert on metrics. The end of a
// resolved alert is written one minute early, for the case that the two clocks
// differ. Delivery works as described at NewWebhook.
func NewAlertmanager(base string, opts ...WebhookOption) (*Webhook, error) {
	return newWebhook(preset{target: strings.TrimSuffix(base, "/") + "/api/v2/alerts", encode: encodeAlertmanager}, opts)
}

// severity is how soon a person is needed: critical is now.
func (t Type) severity() string {
	switch t {
	case TypeDisconnectStuck, TypeRestartBudget, TypeLoggedOut, TypeAccountBanned, TypeHolderUnfit, TypeClientOutdated, TypeStoreUnavailable:
		return "critical"
	case TypeTemporaryBan, TypeConnectionConflict, TypeInstanceIDNotUnique, TypeSendsRefused, TypeDataDamaged, TypeMessagesSetAside:
		return "error"
	}
	return "warning"
}
