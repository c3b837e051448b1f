package guard_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// What each service takes, after its public documentation: the names of its
// fields (any other is refused), which are required, and its limits.

func strict(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

func within(what, text string, limit int) error {
	if text == "" || length(text) > limit {
		return fmt.Errorf("%s has %d characters, of 1 to %d", what, length(text), limit)
	}
	return nil
}

func acceptSlack(body []byte) error {
	type text struct {
		Type, Text string
		Emoji      *bool
		Verbatim   *bool
	}
	var m struct {
		Text   string
		Blocks []struct {
			Type string
			Text text
		}
		UnfurlLinks *bool `json:"unfurl_links"`
		UnfurlMedia *bool `json:"unfurl_media"`
	}
	err := errors.Join(strict(body, &m), within("text", m.Text, 4000))
	if len(m.Blocks) == 0 || len(m.Blocks) > 50 {
		err = errors.Join(err, fmt.Errorf("%d blocks", len(m.Blocks)))
	}
	for _, b := range m.Blocks {
		switch {
		case b.Type == "header" && b.Text.Type == "plain_text" && b.Text.Verbatim == nil:
			err = errors.Join(err, within("header", b.Text.Text, 150))
		case b.Type == "section" && b.Text.Type == "mrkdwn" && b.Text.Emoji == nil:
			err = errors.Join(err, within("section", b.Text.Text, 3000))
		default:
			err = errors.Join(err, fmt.Errorf("invalid_blocks: %+v", b))
		}
	}
	return err
}

func acceptDiscord(body []byte) error {
	var m struct {
		Embeds []struct {
			Title, Description, URL, Timestamp string
			Color                              int
		}
		Allowed struct{ Parse []string } `json:"allowed_mentions"`
	}
	err := strict(body, &m)
	if err != nil || len(m.Embeds) != 1 || m.Allowed.Parse == nil || len(m.Allowed.Parse) != 0 {
		return fmt.Errorf("%d embeds, mentions %v: %w", len(m.Embeds), m.Allowed.Parse, err)
	}
	e := m.Embeds[0]
	_, timeErr := time.Parse(time.RFC3339, e.Timestamp)
	return errors.Join(within("title", e.Title, 256), within("description", e.Description, 4096),
		within("all", e.Title+e.Description, 6000), timeErr, link(e.URL))
}

func acceptTelegram(body []byte) error {
	var m struct {
		Chat    string `json:"chat_id"`
		Text    string
		Preview struct {
			Disabled bool `json:"is_disabled"`
		} `json:"link_preview_options"`
	}
	if err := strict(body, &m); err != nil || m.Chat != "-100200300" || !m.Preview.Disabled {
		return fmt.Errorf("%+v: %w", m, err)
	}
	return within("text", m.Text, 4096)
}

func acceptPagerDuty(body []byte) error {
	var m struct {
		RoutingKey string `json:"routing_key"`
		Action     string `json:"event_action"`
		DedupKey   string `json:"dedup_key"`
		Client     string
		ClientURL  string `json:"client_url"`
		Links      []struct{ Href, Text string }
		Payload    *struct {
			Summary, Source, Severity, Class, Component, Group, Timestamp string
			Details                                                       map[string]any `json:"custom_details"`
		}
	}
	err := errors.Join(strict(body, &m), within("dedup_key", m.DedupKey, 255), link(m.ClientURL))
	if m.RoutingKey != presetSecret+"routingkey" || len(body) > 512<<10 {
		err = errors.Join(err, fmt.Errorf("routing key %q, %d bytes", m.RoutingKey, len(body)))
	}
	switch {
	case m.Action == "resolve" && m.Payload == nil:
	case m.Action == "trigger" && m.Payload != nil:
		err = errors.Join(err, within("summary", m.Payload.Summary, 1024), within("source", m.Payload.Source, 255))
		if !strings.Contains(" critical error warning info ", " "+m.Payload.Severity+" ") {
			err = errors.Join(err, fmt.Errorf("severity %q", m.Payload.Severity))
		}
	default:
		err = errors.Join(err, fmt.Errorf("event_action %q", m.Action))
	}
	return err
}

func acceptAlertmanager(body []byte) error {
	var list []struct {
		Labels, Annotations map[string]string
		StartsAt, EndsAt    time.Time
		GeneratorURL        string
	}
	err := strict(body, &list)
	if err != nil || len(list) != 1 {
		return fmt.Errorf("%d alerts: %w", len(list), err)
	}
	a := list[0]
	if a.Labels["alertname"] == "" || a.EndsAt.Before(a.StartsAt) || a.StartsAt.IsZero() {
		return fmt.Errorf("alertname %q from %s to %s", a.Labels["alertname"], a.StartsAt, a.EndsAt)
	}
	return link(a.GeneratorURL)
}

// link accepts no link, and an absolute one.
func link(s string) error {
	u, err := url.Parse(s)
	if s != "" && (err != nil || u.Host == "") {
		return fmt.Errorf("link %q: %w", s, err)
	}
	return nil
}
