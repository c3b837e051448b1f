package stability

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types"
	waLog "go.mau.fi/whatsmeow/util/log"

	"github.com/wastability/wastability/keepalive"
)

// shown is a stanza that prints itself, as neither a text nor a node.
type shown string

func (s shown) String() string { return string(s) }

// broken is one that cannot be printed.
type broken struct{ text *string }

func (b *broken) String() string { return *b.text }

func TestTapTakesTextNodeAndStringer(t *testing.T) {
	for _, want := range []struct {
		text string
		node waBinary.Node
	}{
		{`<success t="1"/>`, waBinary.Node{Tag: "success", Attrs: waBinary.Attrs{"t": "1"}}},
		{`<stream:error code="515"/>`, waBinary.Node{Tag: "stream:error", Attrs: waBinary.Attrs{"code": "515"}}},
		{`<stream:error code="401"><conflict type="device_removed"/></stream:error>`, waBinary.Node{Tag: "stream:error", Attrs: waBinary.Attrs{"code": "401"},
			Content: []waBinary.Node{{Tag: "conflict", Attrs: waBinary.Attrs{"type": "device_removed"}}}}},
		{`<failure reason="402" code="101" expire="3600"/>`, waBinary.Node{Tag: "failure", Attrs: waBinary.Attrs{"reason": 402, "code": "101", "expire": "3600"}}},
		{`<iq from="s.whatsapp.net" id="1" type="get"><ping/></iq>`, waBinary.Node{Tag: "iq", Attrs: waBinary.Attrs{"id": "1", "type": "get"}, Content: []waBinary.Node{{Tag: "ping"}}}},
		{`<iq id="1"><error type="get"/></iq>`, waBinary.Node{Tag: "iq", Attrs: waBinary.Attrs{"id": "1"}}},
		{`<message type="text"><enc/></message>`, waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{"type": "text"}}},
		{`<ack class="message" from="491520000002@s.whatsapp.net" id="3EB0" t="1"/>`, waBinary.Node{Tag: "ack", Attrs: waBinary.Attrs{"class": "message", "id": "3EB0", "from": types.NewJID("491520000002", "s.whatsapp.net"), "t": "1"}}},
		{`<ack class="message" error="463" id="3EB0"/>`, waBinary.Node{Tag: "ack", Attrs: waBinary.Attrs{"class": "message", "id": "3EB0", "error": "463"}}},
		{`<ack class="message" error="463" id="3EB0"/>`, waBinary.Node{Tag: "ack", Attrs: waBinary.Attrs{"class": "message", "id": "3EB0", "error": 463}}},
		{`<ack class="message" error="odd" id="3EB0"/>`, waBinary.Node{Tag: "ack", Attrs: waBinary.Attrs{"class": "message", "id": "3EB0", "error": "odd"}}},
		{`<ack class="message" id="3EB0" participant="1:2@lid"/>`, waBinary.Node{Tag: "ack", Attrs: waBinary.Attrs{"class": "message", "id": "3EB0", "participant": types.NewADJID("1", 1, 2)}}},
		{`<ack class="receipt" id="3EB0"/>`, waBinary.Node{Tag: "ack", Attrs: waBinary.Attrs{"class": "receipt", "id": "3EB0"}}},
		{`<notification id="1" type="mex"><update op_name="X">{"data":{"xwa2_notify_account_reachout_timelock":{"is_active":true}}}</update></notification>`,
			waBinary.Node{Tag: "notification", Attrs: waBinary.Attrs{"id": "1", "type": "mex"}, Content: []waBinary.Node{
				{Tag: "update", Attrs: waBinary.Attrs{"op_name": "X"}, Content: []byte(`{"data":{"xwa2_notify_account_reachout_timelock":{"is_active":true}}}`)}}}},
		{`<notification id="1" type="mex"><update>{"data":{}}</update></notification>`,
			waBinary.Node{Tag: "notification", Attrs: waBinary.Attrs{"id": "1", "type": "mex"}, Content: []waBinary.Node{{Tag: "update", Content: []byte(`{"data":{}}`)}}}},
		{`<xmlstreamend/>`, waBinary.Node{Tag: "xmlstreamend"}},
	} {
		fromText, ok := look(want.text)
		require.True(t, ok)
		require.Equal(t, want.node.Tag, fromText.tag)
		for _, arg := range []any{&want.node, want.node, shown(want.text)} {
			got, ok := look(arg)
			require.True(t, ok)
			require.Equal(t, fromText, got, "%T", arg)
		}
	}
	for _, arg := range []any{nil, (*waBinary.Node)(nil), &waBinary.Node{}, "", "<", "</>", "frame: <success/>", 7, shown(""), (*broken)(nil), []byte("<success/>")} {
		_, ok := look(arg)
		require.False(t, ok, "%T %v", arg, arg)
	}
}

func TestTapRendersNoWholeStanza(t *testing.T) {
	n := &waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{"id": "3EB0", "type": "text"},
		Content: []waBinary.Node{{Tag: "enc", Content: make([]byte, 1<<20)}}}
	require.Zero(t, testing.AllocsPerRun(100, func() { look(n) }))
	n = &waBinary.Node{Tag: "iq", Attrs: waBinary.Attrs{"id": "1", "type": "result"}, Content: make([]waBinary.Node, 1000)}
	require.Zero(t, testing.AllocsPerRun(100, func() { look(n) }))
	n = &waBinary.Node{Tag: "ack", Attrs: waBinary.Attrs{"class": "message", "id": "3EB0", "error": "463"}}
	require.Zero(t, testing.AllocsPerRun(100, func() { look(n) }))
	n = &waBinary.Node{Tag: "notification", Attrs: waBinary.Attrs{"type": "server_sync"}, Content: make([]waBinary.Node, 1000)}
	require.Zero(t, testing.AllocsPerRun(100, func() { look(n) }))
	n = &waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{"id": "3EB0", "to": "1@lid"}, Content: make([]waBinary.Node, 1000)}
	require.Zero(t, testing.AllocsPerRun(100, func() { lookSent(n) }))
	n.Attrs["to"] = types.NewJID("491520000002", types.DefaultUserServer)
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { lookSent(n) }), 1.0, "the address alone is rendered")
	n.Tag = "iq"
	require.Zero(t, testing.AllocsPerRun(100, func() { lookSent(n) }))
	text := any(`<message id="3EB0" to="1@lid" type="text">` + strings.Repeat("<to/>", 10000) + `</message>`)
	require.Zero(t, testing.AllocsPerRun(100, func() { lookSent(text) }))
	end := &waBinary.Node{Tag: "stream:error", Attrs: waBinary.Attrs{"code": "515"}, Content: make([]waBinary.Node, 1000)}
	require.Less(t, testing.AllocsPerRun(100, func() { look(end) }), 10.0)
}

func TestTapBeforeAttachOnlyPassesOn(t *testing.T) {
	require.NotPanics(t, func() { newTap(waLog.Noop).Sub("Recv").Debugf("%s", &waBinary.Node{Tag: "success"}) })
}

func TestTapTakesSendsOfMessagesAlone(t *testing.T) {
	to := types.NewJID("491520000002", types.DefaultUserServer)
	for _, c := range []struct {
		text string
		node waBinary.Node
		want outgoing
	}{
		{`<message id="3EB0" to="491520000002@s.whatsapp.net" type="text"><enc/></message>`,
			waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{"id": "3EB0", "to": to, "type": "text"}}, outgoing{"3EB0", "491520000002@s.whatsapp.net"}},
		{`<message id="3EB0" phash="2:x" to="1234@g.us" type="text"><participants/></message>`,
			waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{"id": "3EB0", "to": types.NewJID("1234", types.GroupServer), "type": "text"}}, outgoing{"3EB0", "1234@g.us"}},
		{`<message category="peer" id="3EB0" to="491520000001@s.whatsapp.net"/>`,
			waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{"category": "peer", "id": "3EB0", "to": to}}, outgoing{}},
		{`<message device_fanout="false" id="3EB0" to="491520000002:3@s.whatsapp.net"><enc count="1"/></message>`,
			waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{"device_fanout": false, "id": "3EB0", "to": to}}, outgoing{}},
		{`<message id="3EB0" participant="5:3@lid" to="1234@g.us"><enc count="1"/></message>`,
			waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{"participant": to, "id": "3EB0", "to": to}}, outgoing{}},
		{`<message id="3EB0"/>`, waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{"id": "3EB0"}}, outgoing{}},
		{`<message to="1@lid" xid="3EB0"/>`, waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{"xid": "3EB0", "to": "1@lid"}}, outgoing{}},
		{`<iq id="1" to="s.whatsapp.net" type="get"/>`, waBinary.Node{Tag: "iq", Attrs: waBinary.Attrs{"id": "1", "to": to}}, outgoing{}},
		{`<receipt id="3EB0" to="491520000002@s.whatsapp.net"/>`, waBinary.Node{Tag: "receipt", Attrs: waBinary.Attrs{"id": "1", "to": to}}, outgoing{}},
	} {
		for _, arg := range []any{c.text, shown(c.text), &c.node, c.node} {
			got, ok := lookSent(arg)
			require.Equal(t, c.want != outgoing{}, ok, "%T %s", arg, c.text)
			if ok {
				require.Equal(t, c.want, got)
			}
		}
	}
	for _, arg := range []any{nil, (*waBinary.Node)(nil), "", "<message", 7, (*broken)(nil)} {
		_, ok := lookSent(arg)
		require.False(t, ok, "%T %v", arg, arg)
	}
}

func TestTapTakesAcknowledgementsOfMessagesAlone(t *testing.T) {
	for _, c := range []struct {
		text string
		node waBinary.Node
		want string
	}{
		{`<ack class="message" id="3EB0" to="1@newsletter"/>`, waBinary.Node{Tag: "ack", Attrs: waBinary.Attrs{"class": "message", "id": "3EB0"}}, "3EB0"},
		{`<ack class="receipt" id="3EB0" to="1@lid"/>`, waBinary.Node{Tag: "ack", Attrs: waBinary.Attrs{"class": "receipt", "id": "3EB0"}}, ""},
		{`<receipt class="message" id="3EB0"/>`, waBinary.Node{Tag: "receipt", Attrs: waBinary.Attrs{"class": "message", "id": "3EB0"}}, ""},
	} {
		for _, arg := range []any{c.text, shown(c.text), &c.node, c.node} {
			require.Equal(t, c.want, lookAck(arg), "%T %s", arg, c.text)
		}
	}
	for _, arg := range []any{nil, (*waBinary.Node)(nil), "", "<ack", 7, (*broken)(nil)} {
		require.Empty(t, lookAck(arg), "%T %v", arg, arg)
	}
}

// What the tap adds to a message that goes out and to its answer.
func BenchmarkTapOfASend(b *testing.B) {
	head := `id="3EB0C0FFEE" phash="2:x" to="491520000002@s.whatsapp.net" type="text">`
	message := any(`<message ` + head + strings.Repeat(`<to jid="1@lid"><enc/></to>`, 100) + `</message>`)
	ack := any(`<ack class="message" from="491520000002@s.whatsapp.net" id="3EB0C0FFEE" t="1785600000"/>`)
	book := newSendBook(keepalive.Policy{}.Defaults(), time.Now(), new(meter))
	book.up(noAddress)
	b.ReportAllocs()
	for b.Loop() {
		s, _ := lookSent(message)
		book.sent(s)
		st, _ := look(ack)
		book.answered(st.ack)
	}
}
