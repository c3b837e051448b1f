package guard

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// WebhookVersion is the format of WebhookBody that this library writes. A new
// field does not change it; a field that means something else does.
const WebhookVersion = 1

// The headers of a webhook request.
const (
	// HeaderSignature is "sha256=" and the HMAC-SHA256, in hex, of the
	// timestamp, a dot and the body.
	HeaderSignature = "X-Signature-256"
	// HeaderTimestamp is when the attempt was made, in Unix seconds. It is
	// signed, so that an old request cannot be sent again.
	HeaderTimestamp = "X-Signature-Timestamp"
	// HeaderDelivery is WebhookBody.Delivery.
	HeaderDelivery = "X-Delivery-Id"
)

// WebhookBody is what a Webhook posts, as JSON. Times are RFC 3339, UTC, with
// milliseconds; null where there is none.
type WebhookBody struct {
	Version      int             `json:"version"`           // WebhookVersion
	Delivery     string          `json:"delivery"`          // one per change: the same when an attempt is repeated
	Change       Change          `json:"change"`            // "opened" or "resolved"
	At           *string         `json:"at"`                // when the change happened
	Account      string          `json:"account,omitempty"` // see WithWebhookAccount
	Link         string          `json:"link,omitempty"`    // see WithWebhookLink
	Instance     string          `json:"instance"`          // who saw it
	Summary      string          `json:"summary"`           // one line for people
	Incident     WebhookIncident `json:"incident"`          // its state at that time
	Instructions string          `json:"instructions"`      // one sentence: what to do now
	Runbook      string          `json:"runbook"`           // the longer text
}

// WebhookIncident is the incident in a WebhookBody.
type WebhookIncident struct {
	ID              string            `json:"id"` // the same for every occurrence of this trouble
	Type            Type              `json:"type"`
	Active          bool              `json:"active"`
	DetectedAt      *string           `json:"detectedAt"`      // start of this occurrence
	FirstDetectedAt *string           `json:"firstDetectedAt"` // start of the first occurrence ever
	LastCheckedAt   *string           `json:"lastCheckedAt"`
	ResolvedAt      *string           `json:"resolvedAt"`
	Evidence        map[string]string `json:"evidence"` // what was seen; never null
}

// encodePlain is the format of NewWebhook.
func encodePlain(m message) any {
	b := newWebhookBody(m.n, m.delivery)
	b.Account, b.Link = m.account, m.link
	return b
}

func newWebhookBody(n Notification, delivery string) WebhookBody {
	at := func(t time.Time) *string {
		if t.IsZero() {
			return nil
		}
		s := t.UTC().Format("2006-01-02T15:04:05.000Z")
		return &s
	}
	inc := n.Incident
	evidence := inc.Evidence
	if evidence == nil {
		evidence = map[string]string{}
	}
	summary := strings.TrimSpace(string(inc.Type) + " " + string(n.Change) + ". " + inc.Instructions)
	if n.Change == ChangeResolved {
		summary = string(inc.Type) + " resolved."
	}
	return WebhookBody{
		Version: WebhookVersion, Delivery: delivery, Change: n.Change, At: at(n.At), Instance: inc.InstanceID, Summary: summary,
		Incident: WebhookIncident{
			ID: inc.ID, Type: inc.Type, Active: inc.Active, DetectedAt: at(inc.DetectedAt), FirstDetectedAt: at(inc.FirstDetectedAt),
			LastCheckedAt: at(inc.LastCheckedAt), ResolvedAt: at(inc.ResolvedAt), Evidence: evidence,
		},
		Instructions: inc.Instructions, Runbook: inc.Runbook,
	}
}

func newDelivery() string { return rand.Text() }

// outcome is what became of one attempt.
type outcome struct {
	err     error         // nil when it was delivered
	again   bool          // worth another attempt
	after   time.Duration // not before, as the receiver asked
	arrived bool          // the receiver has it, or may have
}

// post makes one attempt.
func (w *Webhook) post(n Notification, delivery string) outcome {
	body, err := json.Marshal(w.cfg.encode(w.message(n, delivery)))
	if err != nil {
		return outcome{err: err}
	}
	ctx, cancel := context.WithTimeout(w.life, w.cfg.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.cfg.url.String(), bytes.NewReader(body))
	if err != nil {
		return outcome{err: errors.New("the request could not be built from URL and headers")}
	}
	for name, values := range w.cfg.header {
		req.Header[name] = values
	}
	timestamp := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "wastability-webhook/1")
	req.Header.Set(HeaderDelivery, delivery)
	req.Header.Set(HeaderTimestamp, timestamp)
	if w.cfg.secret != nil {
		req.Header.Set(HeaderSignature, sign(w.cfg.secret, timestamp, body))
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return outcome{err: plain(err), again: true, arrived: !unsent(err)}
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return outcome{arrived: true}
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code >= 500:
		return outcome{err: fmt.Errorf("the receiver answered %d", code), again: true, after: retryAfter(resp.Header, answer)}
	default:
		return outcome{err: fmt.Errorf("the receiver answered %d", code)}
	}
}

// retryAfter is how long the receiver asks to be left alone: a header in
// seconds or as a date, Discord's retry_after, or Telegram's parameters.
func retryAfter(header http.Header, answer []byte) time.Duration {
	var seconds float64
	if h := header.Get("Retry-After"); h != "" {
		if s, err := strconv.ParseFloat(h, 64); err == nil {
			seconds = s
		} else if at, err := http.ParseTime(h); err == nil {
			seconds = time.Until(at).Seconds()
		}
	}
	var body struct {
		RetryAfter float64 `json:"retry_after"`
		Parameters struct {
			RetryAfter float64 `json:"retry_after"`
		} `json:"parameters"`
	}
	_ = json.Unmarshal(answer, &body) // most answers are no JSON
	seconds = max(seconds, body.RetryAfter, body.Parameters.RetryAfter)
	if !(seconds > 0) { // NaN too
		return 0
	}
	return time.Duration(min(seconds, 3600) * float64(time.Second))
}

// plain takes the URL out of an error of the client: it may hold credentials.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// unsent reports whether the request cannot have reached the receiver.
func unsent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func sign(secret []byte, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(timestamp + "."))
	mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// ErrWebhookSignature reports a request that was not signed with the secret, or
// was changed on the way, or is too old. Answer it with 401 and do nothing.
var ErrWebhookSignature = errors.New("guard: the webhook request is not to be trusted")

// VerifyWebhook checks, on the receiver's side, that a request was signed with
// secret and not longer than maxAge ago, by the receiver's clock (zero: 5
// min). Read body completely first, with a limit, and parse it only
// afterwards. The signature is compared in constant time. The error matches
// ErrWebhookSignature. A request can be repeated within maxAge: to notice
// that, remember X-Delivery-Id for so long.
func VerifyWebhook(secret string, header http.Header, body []byte, maxAge time.Duration) error {
	if len(secret) < minSecret {
		return fmt.Errorf("%w: the secret has fewer than %d bytes", ErrWebhookSignature, minSecret)
	}
	if maxAge <= 0 {
		maxAge = 5 * time.Minute
	}
	timestamp := header.Get(HeaderTimestamp)
	if !hmac.Equal([]byte(header.Get(HeaderSignature)), []byte(sign([]byte(secret), timestamp, body))) {
		return fmt.Errorf("%w: %s does not match: check that both sides have the same secret, and that the body is as it was received", ErrWebhookSignature, HeaderSignature)
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return fmt.Errorf("%w: %s is not a number", ErrWebhookSignature, HeaderTimestamp)
	}
	if age := time.Since(time.Unix(seconds, 0)).Abs(); age > maxAge {
		return fmt.Errorf("%w: it is %s old: check the clocks of both sides", ErrWebhookSignature, age.Round(time.Second))
	}
	return nil
}
