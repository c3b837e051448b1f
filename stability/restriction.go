package stability

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	waBinary "go.mau.fi/whatsmeow/binary"
)

// WhatsApp tells an account that it may not begin new chats for a while, and
// that it may again, with a notification of the type "mex" whose content is
// JSON. Newer versions of whatsmeow have an event for it; the tap sees it with
// every version. Not every restriction is told: the answers to sends stay the
// surer sign.

// limitKey names such a notification among many others of its type.
const limitKey = "xwa2_notify_account_reachout_timelock"

// maxLimit bounds what is read of one.
const maxLimit = 4096

func limitIn(n *waBinary.Node) string {
	for _, child := range n.GetChildren() {
		if content, ok := child.Content.([]byte); ok && child.Tag == "update" && len(content) <= maxLimit {
			if text := string(content); strings.Contains(text, limitKey) {
				return text
			}
		}
	}
	return ""
}

func limitInText(text string) string {
	head, rest, _ := strings.Cut(text, ">")
	if attribute(head, "type") != "mex" || !strings.Contains(rest, limitKey) {
		return ""
	}
	_, rest, _ = strings.Cut(rest, "{")
	if content, _, ok := strings.Cut(rest, "</update>"); ok && len(content) < maxLimit {
		return "{" + content
	}
	return ""
}

// restricted takes in what a notification says. One that does not parse says
// nothing.
func (b *sendBook) restricted(content string) {
	var doc struct {
		Data struct {
			Told *struct {
				Kind   string          `json:"enforcement_type"`
				Active bool            `json:"is_active"`
				Ends   json.RawMessage `json:"time_enforcement_ends"` // seconds, as a number or a text
			} `json:"xwa2_notify_account_reachout_timelock"`
		} `json:"data"`
	}
	if json.Unmarshal([]byte(content), &doc) != nil || doc.Data.Told == nil {
		return
	}
	told := doc.Data.Told
	var limit *Restriction
	if told.Active {
		limit = &Restriction{Kind: told.Kind, At: time.Now()}
		if s, err := strconv.ParseInt(strings.Trim(string(told.Ends), `"`), 10, 64); err == nil && s > 0 {
			limit.Ends = time.Unix(s, 0)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit = limit
}
