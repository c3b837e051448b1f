package adminhttp

import (
	"fmt"

	"github.com/wastability/wastability/stability"
)

// messagesDoc is what became of messages.
type messagesDoc struct {
	Received receivedDoc `json:"received"`
	Sent     sentDoc     `json:"sent"`
	Resends  resendsDoc  `json:"resends"` // of what recipients could not decrypt
}

type resendsDoc struct {
	Answered uint64  `json:"answered"`
	Unknown  uint64  `json:"unknown"`
	Failed   uint64  `json:"failed"`
	Text     string  `json:"text"`
	WhatToDo *string `json:"whatToDo"`
}

func resends(r stability.Resends) resendsDoc {
	doc := resendsDoc{Answered: r.Answered, Unknown: r.Unknown, Failed: r.Failed, Text: several(r.Answered,
		"No recipient has asked for a message again.", "1 message that a recipient could not read was sent to it again.",
		"%d messages that recipients could not read were sent to them again.")}
	if r.Answered == 0 && r.Unknown+r.Failed > 0 {
		doc.Text = "No message was sent again."
	}
	if r.Unknown > 0 {
		doc.WhatToDo = filled("Send again what matters and is not kept any more: its recipient cannot read it.")
		doc.Text += several(r.Unknown, "", " 1 was asked for that is not kept any more.", " %d were asked for that are not kept any more.")
	}
	if r.Failed > 0 {
		doc.Text += several(r.Failed, "", " 1 could not be looked up: the backend did not answer.", " %d could not be looked up: the backend did not answer.")
	}
	return doc
}

// sentDoc counts what this process has sent.
type sentDoc struct {
	Text               string         `json:"text"`
	WhatToDo           *string        `json:"whatToDo"`
	CountedSince       stamp          `json:"countedSince"`
	Acknowledged       countDoc       `json:"acknowledged"`
	Waiting            countDoc       `json:"waiting"`
	Unanswered         countDoc       `json:"unanswered"`
	Refused            []refusalDoc   `json:"refused"`
	LastAcknowledgedAt stamp          `json:"lastAcknowledgedAt"`
	LastRefusedAt      stamp          `json:"lastRefusedAt"`
	LastRefusedCode    *int           `json:"lastRefusedCode"`
	MuteSince          stamp          `json:"muteSince"`
	NewChatsRefusedAt  stamp          `json:"newChatsRefusedAt"`
	Restricted         *restrictedDoc `json:"restricted"`
}

type countDoc struct {
	Count uint64 `json:"count"`
	At    stamp  `json:"at"` // of the last; of what waits: of the oldest
	Text  string `json:"text"`
}

type refusalDoc struct {
	Code int `json:"code"`
	countDoc
	WhatToDo string `json:"whatToDo"`
}

type restrictedDoc struct {
	Kind string `json:"kind"`
	At   stamp  `json:"at"`
	Ends stamp  `json:"ends"`
}

func (h *Handler) account(m stability.Messages) messagesDoc {
	return messagesDoc{Received: h.received(m.Received), Sent: sent(m.Sent), Resends: resends(m.Resends)}
}

func sent(s stability.SentMessages) sentDoc {
	doc := sentDoc{
		Text: s.Text, WhatToDo: filled(s.Do), CountedSince: stamp(s.Since),
		Acknowledged: countDoc{s.Acknowledged, stamp(s.LastAcknowledgedAt), several(s.Acknowledged,
			"WhatsApp has accepted no message since this program began.", "WhatsApp has accepted 1 message since this program began.",
			"WhatsApp has accepted %d messages since this program began.")},
		Waiting: countDoc{uint64(s.Waiting), stamp(s.WaitingSince), several(uint64(s.Waiting),
			"No message waits for its answer.", "1 message waits for its answer.", "%d messages wait for their answers.")},
		Unanswered: countDoc{s.Unanswered, stamp(s.LastUnansweredAt), several(s.Unanswered,
			"No message was left without an answer.", "1 message was left without an answer: it may have arrived, or not.",
			"%d messages were left without an answer: they may have arrived, or not.")},
		Refused: []refusalDoc{}, LastAcknowledgedAt: stamp(s.LastAcknowledgedAt),
		LastRefusedAt: stamp(s.LastRefusedAt), LastRefusedCode: filled(s.LastRefusedCode),
		MuteSince: stamp(s.MuteSince), NewChatsRefusedAt: stamp(s.NewChatsRefusedAt),
	}
	for _, r := range s.Refused {
		doc.Refused = append(doc.Refused, refusalDoc{r.Code, countDoc{r.Count, stamp(r.LastAt), r.Means}, r.Do})
	}
	if r := s.Restricted; r != nil {
		doc.Restricted = &restrictedDoc{r.Kind, stamp(r.At), stamp(r.Ends)}
	}
	return doc
}

// several is a sentence about none, one or n of something.
func several(n uint64, none, one, more string) string {
	switch n {
	case 0:
		return none
	case 1:
		return one
	}
	return fmt.Sprintf(more, n)
}
