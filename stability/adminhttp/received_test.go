package adminhttp_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/adminhttp"
)

const held = "/api/whatsapp/messages"

func (p *place) onMessage(what, body string) *httptest.ResponseRecorder {
	return p.req("POST", held+"/"+what, body, "Content-Type", "application/json")
}

func TestMessageThatNobodyTookIsListedHandedOverAndRemoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run().pair()
		require.Equal(t, "Every received message was handled.", p.answer(p.get(held), 200)["summary"])
		why := "no row for 491520000099"
		p.panics.Store(&why)
		bob, err := p.sim.NewContact(t.Context(), "491520000002")
		require.NoError(t, err)
		for _, text := range []string{"first", "second"} {
			_, err = bob.Send(t.Context(), p.account.JID(), text)
			require.NoError(t, err)
		}
		kept := func(n int) {
			p.await(func(st stability.Status) bool { return st.Messages.Received.By[stability.MessageKept].Count == n })
		}
		kept(2)
		doc := p.answer(p.get(held), 200)
		require.EqualValues(t, 2, doc["count"])
		first := doc["messages"].([]any)[0].(map[string]any)
		require.Equal(t, "kept", first["state"])
		require.Equal(t, true, first["hasContent"])
		require.Contains(t, first["why"], "panicked: no row for")
		body := p.get(held).Body.String()
		require.NotContains(t, body, "49152", "numbers are masked, also in what a handler says")
		require.NotContains(t, body, "first", "contents are not shown")

		entry := first["entry"].(string)
		for body, want := range map[string]string{
			``: "bad_json", `[]`: "bad_json", `{}`: "bad_json", `{"entry":"` + entry + `"}`: "not_confirmed", `{"entry":"` + entry + `","confirm":"yes"}`: "not_confirmed",
		} {
			require.Equal(t, want, p.answer(p.onMessage("purge", body), 400)["error"], body)
		}
		require.Equal(t, "not_json", p.answer(p.req("POST", held+"/redeliver", "{}"), 415)["error"])
		require.Equal(t, "no_message", p.answer(p.onMessage("redeliver", `{"entry":"none"}`), 404)["error"])
		kept(2)
		p.answer(p.onMessage("purge", `{"entry":"`+entry+`","confirm":"purge-message"}`), 200)
		kept(1)
		require.Equal(t, "no_message", p.answer(p.onMessage("redeliver", `{"entry":"`+entry+`"}`), 404)["error"])

		p.panics.Store(nil)
		other := p.answer(p.get(held), 200)["messages"].([]any)[0].(map[string]any)["entry"].(string)
		p.answer(p.onMessage("redeliver", `{"entry":"`+other+`"}`), 200)
		kept(0)
		time.Sleep(2 * time.Second)
		require.Empty(t, p.answer(p.get(held), 200)["messages"])
		require.EqualValues(t, 1, p.m.Status().Messages.Received.Handled)
		p.stop()
		require.Equal(t, "closed", p.answer(p.onMessage("redeliver", `{"entry":"x"}`), 503)["error"])
	})
}

// Nothing can be done here with a message that WhatsApp has, and nobody is told that the
// backend does not answer.
func TestMessageThatWhatsAppHasCannotBeRemoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p := newPlace(t).run().pair()
		p.refuses.Store(true)
		bob, err := p.sim.NewContact(t.Context(), "491520000002")
		require.NoError(t, err)
		_, err = bob.Send(t.Context(), p.account.JID(), "refused")
		require.NoError(t, err)
		p.await(func(st stability.Status) bool { return st.Messages.Received.By[stability.MessageRefused].Count == 1 })
		entry := p.answer(p.get(held), 200)["messages"].([]any)[0].(map[string]any)["entry"].(string)
		for what, body := range map[string]string{"purge": `{"entry":"` + entry + `","confirm":"purge-message"}`, "redeliver": `{"entry":"` + entry + `"}`} {
			no := p.answer(p.onMessage(what, body), 409)
			require.Equal(t, "message_at_service", no["error"], what)
			require.Contains(t, no["message"], "WhatsApp has this message")
		}
		p.stop()
	})
}

func TestSizesAndMissedMessagesAreInStatusNow(t *testing.T) {
	raw, err := json.Marshal(adminhttp.Received(stability.ReceivedMessages{
		Read: true, Removed: 7,
		Waiting: stability.MessageGroup{Count: 1, Bytes: 50}, SetAside: stability.MessageGroup{Count: 3, Bytes: 900},
		By: map[stability.MessageState]stability.MessageGroup{
			stability.MessageKept: {Count: 1, Bytes: 50}, stability.MessageSetAside: {Count: 3, Bytes: 900},
		},
		Missed: map[stability.MessageState]stability.MessageGroup{stability.MessageSetAside: {Count: 2, Bytes: 800, Why: "of 491520000099"}},
	}))
	require.NoError(t, err)
	var doc map[string]any
	require.NoError(t, json.Unmarshal(raw, &doc))
	for path, want := range map[string]any{
		"read": true, "removed": 7., "waiting.contentBytes": 50., "setAside.contentBytes": 900., "by.kept.contentBytes": 50., "by.set_aside.contentBytes": 900.,
		"missed.set_aside.count": 2., "missed.set_aside.contentBytes": 800., "missed.kept.count": 0., "missed.queued.contentBytes": 0.,
	} {
		require.Equal(t, want, within(doc, strings.Split(path, ".")...), path)
	}
	require.NotContains(t, string(raw), "49152", "numbers are masked")
}
