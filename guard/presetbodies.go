package guard

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"
)

// Texts are cut well below the limits of the services: Slack 150 for a header
// and 3,000 for a section; Discord 256 for a title, 4,096 for a description,
// 6,000 for all; Telegram 4,096; PagerDuty 1,024 for a summary, 255 for a
// dedup_key, 512 KB for all.

type object = map[string]any

func encodeSlack(m message) any {
	section := func(text string) object {
		return object{"type": "section", "text": object{"type": "mrkdwn", "text": text, "verbatim": true}}
	}
	blocks := []object{
		// A header is plain text, whose escapes are not specified: it has none.
		{"type": "header", "text": object{"type": "plain_text", "text": clean(strings.NewReplacer("&", "+", "<", "(", ">", ")").Replace(m.headline()), 150, keep), "emoji": false}},
		section(clean(m.todo(), 1500, slackText)),
	}
	if facts := m.facts(); facts != "" {
		blocks = append(blocks, section("```\n"+clean(facts, 2500, slackCode)+"\n```"))
	}
	if text := m.runbook(); text != "" {
		blocks = append(blocks, section(clean(text, 2800, slackText)))
	}
	if m.link != "" {
		blocks = append(blocks, section("<"+strings.NewReplacer("&", "&amp;", "<", "%3C", ">", "%3E", "|", "%7C").Replace(m.link)+"|Open the page of this incident>"))
	}
	return object{
		"text":         clean(m.headline()+". "+m.todo(), 1000, slackText), // for notifications on the phone
		"blocks":       blocks,
		"unfurl_links": false, "unfurl_media": false,
	}
}

func encodeDiscord(m message) any {
	text := clean(m.todo(), 1000, discordText)
	if facts := m.facts(); facts != "" {
		text += "\n```\n" + clean(facts, 1500, codeText) + "\n```"
	}
	if book := m.runbook(); book != "" {
		text += "\n" + clean(book, 1400, discordText)
	}
	embed := object{"title": clean(m.headline(), 256, discordText), "description": text, "color": 0xC0392B}
	if m.n.Change == ChangeResolved {
		embed["color"] = 0x27AE60
	}
	if !m.n.At.IsZero() {
		embed["timestamp"] = stamp(m.n.At)
	}
	if m.link != "" {
		embed["url"] = m.link
	}
	return object{"embeds": []object{embed}, "allowed_mentions": object{"parse": []string{}}}
}

func encodeTelegram(m message, chat string) any {
	mark := "\U0001F534 " // a red disc
	if m.n.Change == ChangeResolved {
		mark = "✅ "
	}
	parts := []string{mark + clean(m.headline(), 250, telegramText), clean(m.todo(), 700, telegramText)}
	for _, p := range []string{m.link, clean(m.facts(), 1000, telegramText), clean(m.runbook(), 1000, telegramText)} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return object{"chat_id": chat, "text": strings.Join(parts, "\n\n"), "link_preview_options": object{"is_disabled": true}}
}

func encodePagerDuty(m message, routingKey string) any {
	inc := m.n.Incident
	key := inc.ID
	if m.account != "" {
		key = m.account + "/" + inc.ID
	}
	event := object{"routing_key": routingKey, "event_action": "resolve", "dedup_key": shortKey(key)}
	if m.n.Change == ChangeResolved {
		return event
	}
	details := object{}
	for _, name := range slices.Sorted(maps.Keys(inc.Evidence)) {
		if len(details) < 50 {
			details[clean(name, 100, keep)] = clean(inc.Evidence[name], 1000, keep)
		}
	}
	payload := object{
		"summary":        clean(m.headline()+". "+m.todo(), 1024, keep),
		"source":         clean(orInstance(inc.InstanceID), 255, keep),
		"severity":       inc.Type.severity(),
		"class":          clean(string(inc.Type), 255, keep),
		"component":      "whatsapp",
		"custom_details": object{"evidence": details, "runbook": clean(inc.Runbook, 10_000, keep)},
	}
	if !inc.DetectedAt.IsZero() {
		payload["timestamp"] = stamp(inc.DetectedAt)
	}
	if m.account != "" {
		payload["group"] = clean(m.account, 255, keep)
	}
	event["event_action"], event["payload"], event["client"] = "trigger", payload, "wastability"
	if m.link != "" {
		event["client_url"] = m.link
		event["links"] = []object{{"href": m.link, "text": "The page of this incident"}}
	}
	return event
}

func encodeAlertmanager(m message) any {
	inc := m.n.Incident
	labels := object{"alertname": clean(string(inc.Type), 200, keep), "severity": inc.Type.severity(), "service": "wastability"}
	if m.account != "" {
		labels["account"] = clean(m.account, 200, keep)
	}
	annotations := object{"summary": clean(m.headline(), 500, keep), "description": clean(m.todo(), 2000, keep)}
	for name, text := range map[string]string{"runbook": m.runbook(), "facts": m.facts(), "instance": inc.InstanceID} {
		if text != "" {
			annotations[name] = clean(text, 10_000, keep)
		}
	}
	starts := inc.DetectedAt
	if starts.IsZero() || starts.After(m.n.At) {
		starts = m.n.At
	}
	ends := m.n.At.AddDate(1, 0, 0)
	if m.n.Change == ChangeResolved {
		if ends = m.n.At.Add(-time.Minute); ends.Before(starts) {
			ends = starts
		}
	}
	alert := object{"labels": labels, "annotations": annotations, "startsAt": stamp(starts), "endsAt": stamp(ends)}
	if m.link != "" {
		alert["generatorURL"] = m.link
	}
	return []object{alert}
}

// shortKey is key, or a digest of it where it is longer than PagerDuty takes.
func shortKey(key string) string {
	if len(key) <= 255 {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return key[:100] + hex.EncodeToString(sum[:])
}

func orInstance(id string) string {
	if id == "" {
		return "wastability"
	}
	return id
}
