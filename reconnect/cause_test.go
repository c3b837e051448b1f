package reconnect_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
)

func TestClassifyEvents(t *testing.T) {
	for _, want := range []struct {
		event  any
		reason reconnect.Reason
		code   int
		ends   bool
	}{
		{&events.Disconnected{}, reconnect.ReasonConnectionClosed, 0, true},
		{&events.StreamReplaced{}, reconnect.ReasonConnectionReplaced, 0, true},
		{&events.LoggedOut{Reason: 401}, reconnect.ReasonLoggedOut, 401, true},
		{&events.LoggedOut{OnConnect: true, Reason: 401}, reconnect.ReasonLoggedOut, 401, true},
		{&events.LoggedOut{OnConnect: true, Reason: 403}, reconnect.ReasonAccountLocked, 403, true},
		{&events.LoggedOut{OnConnect: true, Reason: 406}, reconnect.ReasonAccountBanned, 406, true},
		{&events.TemporaryBan{Code: 101, Expire: time.Hour}, reconnect.ReasonTemporaryBan, 402, true},
		{&events.ClientOutdated{}, reconnect.ReasonClientOutdated, 405, true},
		{&events.ManualLoginReconnect{}, reconnect.ReasonRestartRequired, 515, true},
		{&events.ConnectFailure{Reason: 400}, reconnect.ReasonConnectRejected, 400, true},
		{&events.ConnectFailure{Reason: 409}, reconnect.ReasonConnectRejected, 409, true},
		{&events.ConnectFailure{Reason: 411}, reconnect.ReasonMultideviceMismatch, 411, true},
		{&events.ConnectFailure{Reason: 415}, reconnect.ReasonConnectRejected, 415, true},
		{&events.ConnectFailure{Reason: 418}, reconnect.ReasonConnectRejected, 418, true},
		{&events.ConnectFailure{Reason: 501}, reconnect.ReasonConnectRejected, 501, true},
		{&events.ConnectFailure{Reason: 999}, reconnect.ReasonConnectRejected, 999, true},
		{&events.StreamError{Code: "500"}, reconnect.ReasonBadSession, 500, true},
		{&events.StreamError{Code: "401"}, reconnect.ReasonBadSession, 401, true},
		{&events.StreamError{Code: "tea"}, reconnect.ReasonBadSession, 0, true},
		{&events.StreamError{}, reconnect.ReasonBadSession, 0, true},
		{&events.CATRefreshError{Error: errors.New("no")}, reconnect.ReasonConnectRejected, 0, true},
		{&events.KeepAliveTimeout{ErrorCount: 1}, reconnect.ReasonConnectionLost, 0, false},
		{&events.KeepAliveTimeout{ErrorCount: 2}, reconnect.ReasonConnectionLost, 0, true},
		{&events.KeepAliveRestored{}, reconnect.ReasonNone, 0, false},
		{&events.PairError{Error: errors.New("x")}, reconnect.ReasonPairingFailed, 0, true},
		{&events.PairError{}, reconnect.ReasonPairingFailed, 0, true},
		{&events.QRScannedWithoutMultidevice{}, reconnect.ReasonMultideviceMismatch, 0, false},
		{&events.Connected{}, reconnect.ReasonNone, 0, false},
		{&events.PairSuccess{}, reconnect.ReasonNone, 0, false},
		{&events.Message{}, reconnect.ReasonNone, 0, false},
		{(*events.LoggedOut)(nil), reconnect.ReasonNone, 0, false},
		{(*events.StreamError)(nil), reconnect.ReasonNone, 0, false},
		{(*events.ConnectFailure)(nil), reconnect.ReasonNone, 0, false},
		{(*reconnect.Cause)(nil), reconnect.ReasonNone, 0, false},
		{"a string", reconnect.ReasonNone, 0, false},
		{42, reconnect.ReasonNone, 0, false},
		{reconnect.ReasonIntentional, reconnect.ReasonIntentional, 0, true},
		{reconnect.ReasonNone, reconnect.ReasonNone, 0, false},
		{reconnect.Cause{Reason: reconnect.ReasonTimedOut, Code: 7}, reconnect.ReasonTimedOut, 7, true},
		{&reconnect.Cause{Reason: reconnect.ReasonTimedOut}, reconnect.ReasonTimedOut, 0, true},
		{nil, reconnect.ReasonConnectionClosed, 0, true},
	} {
		c, ends := reconnect.Classify(want.event)
		name := fmt.Sprintf("%T %+v", want.event, want.event)
		require.Equal(t, want.ends, ends, name)
		if ends {
			require.Equal(t, want.reason, c.Reason, name)
			require.Equal(t, want.code, c.Code, name)
		}
	}
}

func TestBanKeepsItsTimeAndItsReason(t *testing.T) {
	for _, cause := range []any{
		&events.TemporaryBan{Code: 101, Expire: time.Hour},
		reconnect.Stanza(`<failure code="101" expire="3600" location="rva" reason="402"/>`),
	} {
		c, ends := reconnect.Classify(cause)
		require.True(t, ends)
		require.Equal(t, time.Hour, c.Expire)
		require.Equal(t, 402, c.Code)
		require.Contains(t, c.Detail, "101: you sent too many messages")
		require.True(t, c.OnConnect)
	}
	c, _ := reconnect.Classify(&events.TemporaryBan{Expire: -time.Hour}) // overflow
	require.Zero(t, c.Expire)
	c, _ = reconnect.Classify(reconnect.Stanza(`<failure reason="402" expire="9223372036854775807"/>`))
	require.Positive(t, c.Expire)
}

func TestErrorsOfThisLibraryAreRecognisedInsideOthers(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("connect: %w", err) }
	inner := errors.New("disk on fire")
	for _, want := range []struct {
		err    any
		reason reconnect.Reason
		ends   bool
	}{
		{wrap(whatsmeow.ErrAlreadyConnected), "", false},
		{wrap(lock.ErrFenced), reconnect.ReasonLockLost, true},
		{wrap(lock.ErrLost), reconnect.ReasonLockLost, true},
		{errors.Join(context.Canceled, lock.ErrFenced), reconnect.ReasonLockLost, true},
		{wrap(context.Canceled), reconnect.ReasonConnectionClosed, true},
		{wrap(context.DeadlineExceeded), reconnect.ReasonTimedOut, true},
		{wrap(reconnect.Cause{Reason: reconnect.ReasonStoreUnavailable, Err: inner}), reconnect.ReasonStoreUnavailable, true},
		{&events.PairError{Error: &whatsmeow.PairDatabaseError{DBErr: wrap(lock.ErrFenced)}}, reconnect.ReasonLockLost, true},
		{&events.PairError{Error: &whatsmeow.PairDatabaseError{DBErr: inner}}, reconnect.ReasonPairingFailed, true},
		{errors.New("anything"), reconnect.ReasonConnectionClosed, true},
		{(*whatsmeow.PairProtoError)(nil), reconnect.ReasonConnectionClosed, true},
	} {
		c, ends := reconnect.Classify(want.err)
		require.Equal(t, want.ends, ends, "%T", want.err)
		require.Equal(t, want.reason, c.Reason, "%T", want.err)
		require.False(t, ends && c.Err == nil)
	}
	require.ErrorIs(t, reconnect.Cause{Reason: reconnect.ReasonStoreUnavailable, Err: inner}, inner)
	require.Equal(t, "reconnect: bad_session (500): why", reconnect.Cause{Reason: reconnect.ReasonBadSession, Code: 500, Detail: "why"}.Error())
}

func TestDetailsCarryNoPhoneNumbersAndStayShort(t *testing.T) {
	for _, text := range []string{
		"user 4915112345678 gone", "4915112345678", "+49 (151) 123-45-678", "x:491511234567:3@s.whatsapp.net", strings.Repeat("é", 500), "a\nb\x00\xff",
	} {
		for _, evidence := range []any{
			errors.New(text),
			&events.ConnectFailure{Reason: 499, Message: text},
			&events.StreamError{Code: text},
			reconnect.Stanza(`<failure message="` + text + `" reason="499"/>`),
		} {
			c, ends := reconnect.Classify(evidence)
			require.True(t, ends)
			operatorText(t, c.Detail)
			require.NotContains(t, c.Detail, "4915")
		}
	}
}

func operatorText(t require.TestingT, s string) {
	require.LessOrEqual(t, len(s), 220)
	require.True(t, utf8.ValidString(s))
	run := 0
	for _, r := range s {
		require.True(t, unicode.IsPrint(r), "%q", s)
		if run++; r < '0' || r > '9' {
			run = 0
		}
		require.Less(t, run, 6, "%q", s)
	}
}

func node(tag string, attrs waBinary.Attrs, children ...waBinary.Node) *waBinary.Node {
	n := &waBinary.Node{Tag: tag, Attrs: attrs}
	if len(children) > 0 {
		n.Content = children
	}
	return n
}

// printed is a node as whatsmeow's receive logger prints it.
func printed(n *waBinary.Node) reconnect.Stanza {
	var attrs []string
	for name, value := range n.Attrs {
		attrs = append(attrs, fmt.Sprintf(` %s="%v"`, name, value))
	}
	slices.Sort(attrs)
	head := n.Tag + strings.Join(attrs, "")
	children, _ := n.Content.([]waBinary.Node)
	if len(children) == 0 {
		return reconnect.Stanza("<" + head + "/>")
	}
	var inner string
	for i := range children {
		inner += string(printed(&children[i]))
	}
	return reconnect.Stanza("<" + head + ">" + inner + "</" + n.Tag + ">")
}

func TestClassifyStanzas(t *testing.T) {
	conflict := func(kind string) waBinary.Node {
		return waBinary.Node{Tag: "conflict", Attrs: waBinary.Attrs{"type": kind}}
	}
	type attrs = waBinary.Attrs
	for _, want := range []struct {
		stanza any
		reason reconnect.Reason
		code   int
	}{
		{node("stream:error", attrs{"code": "515"}), reconnect.ReasonRestartRequired, 515},
		{node("stream:error", attrs{"code": "503"}), reconnect.ReasonServiceUnavailable, 503},
		{node("stream:error", attrs{"code": "500"}), reconnect.ReasonBadSession, 500},
		{node("stream:error", attrs{"code": "401"}), reconnect.ReasonBadSession, 401},
		{node("stream:error", attrs{"code": "401"}, conflict("device_removed")), reconnect.ReasonLoggedOut, 401},
		{node("stream:error", nil, conflict("replaced")), reconnect.ReasonConnectionReplaced, 0},
		{node("stream:error", attrs{"code": "440"}, conflict("replaced")), reconnect.ReasonConnectionReplaced, 440},
		{node("stream:error", nil, conflict("device_removed")), reconnect.ReasonBadSession, 0},
		{node("stream:error", attrs{"code": "414"}), reconnect.ReasonConnectRejected, 414},
		{node("stream:error", nil, waBinary.Node{Tag: "xml-not-well-formed"}), reconnect.ReasonBadSession, 0},
		{node("stream:error", nil), reconnect.ReasonBadSession, 0},
		{node("failure", attrs{"reason": 401, "location": "frc"}), reconnect.ReasonLoggedOut, 401},
		{node("failure", attrs{"reason": "402", "code": "104", "expire": "60"}), reconnect.ReasonTemporaryBan, 402},
		{node("failure", attrs{"reason": "403", "logout_message_header": `Say "what"`}), reconnect.ReasonAccountLocked, 403},
		{node("failure", attrs{"reason": "405"}), reconnect.ReasonClientOutdated, 405},
		{node("failure", attrs{"reason": "406"}), reconnect.ReasonAccountBanned, 406},
		{node("failure", attrs{"reason": "409", "message": `a reason="401" > b`}), reconnect.ReasonConnectRejected, 409},
		{node("failure", attrs{"reason": "411"}), reconnect.ReasonMultideviceMismatch, 411},
		{node("failure", attrs{"reason": "413"}), reconnect.ReasonConnectRejected, 413},
		{node("failure", attrs{"reason": "500"}), reconnect.ReasonBadSession, 500},
		{node("failure", attrs{"reason": "503"}), reconnect.ReasonServiceUnavailable, 503},
		{node("failure", nil), reconnect.ReasonConnectRejected, 0},
		{node("xmlstreamend", nil), reconnect.ReasonConnectionClosed, 0},
		{reconnect.Stanza(`<stream:error code="515">`), reconnect.ReasonRestartRequired, 515},
		{reconnect.Stanza(`<stream:error><text>&lt;conflict type="replaced"/></text></stream:error>`), reconnect.ReasonBadSession, 0},
	} {
		c, ends := reconnect.Classify(want.stanza)
		require.True(t, ends, want.stanza)
		require.Equal(t, want.reason, c.Reason, want.stanza)
		require.Equal(t, want.code, c.Code, want.stanza)
		require.Equal(t, reconnect.SourceTap, c.Source)
		if n, ok := want.stanza.(*waBinary.Node); ok {
			text, ends := reconnect.Classify(printed(n))
			require.True(t, ends)
			require.Equal(t, c, text, "the text of a stanza says what the stanza says")
		}
	}
	for _, other := range []reconnect.Stanza{
		"", "<", "<failure", "<f", "failure reason=401", "<failures/>", "<stream:errors/>", "<success/>", " <failure/>",
		`<message from="1@s.whatsapp.net"><body><failure reason="401"/></body></message>`,
		`<iq><error code="401"/></iq>`, `<stream:features/>`, `<xmlstreamended/>`,
	} {
		_, ends := reconnect.Classify(other)
		require.False(t, ends, other)
	}
	for _, other := range []*waBinary.Node{
		nil, {}, node("success", attrs{"t": 1}), node("failures", attrs{"reason": "401"}), node("stream:features", nil),
		node("message", nil, *node("failure", attrs{"reason": "401"})), node("iq", nil, *node("error", attrs{"code": "401"})),
	} {
		_, ends := reconnect.Classify(other)
		require.False(t, ends, other)
	}
}

func FuzzClassifyStanza(f *testing.F) {
	for _, seed := range []string{
		`<stream:error code="515"/>`, `<stream:error><conflict type="replaced"/></stream:error>`, `<failure reason="402" code="101" expire="3600"/>`,
		`<failure message="a " b" reason="1"/>`, `<failure reason="`, `<stream:error <<>>"`, `<xmlstreamend/>`, `<failure `, "<failure \xff=\"\"/>",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, ends := reconnect.ClassifyStanza(text)
		if !ends {
			require.Equal(t, reconnect.Cause{}, c)
			return
		}
		require.True(t, c.Reason.Known())
		require.GreaterOrEqual(t, c.Expire, time.Duration(0))
		require.GreaterOrEqual(t, c.Code, 0)
		operatorText(t, c.Detail)
	})
}

func TestUninterestingStanzasCostNoAllocation(t *testing.T) {
	for _, text := range []string{`<message from="x"/>`, `<success/>`, `<stream:features/>`, `<fib/>`, ""} {
		require.Zero(t, testing.AllocsPerRun(100, func() { reconnect.ClassifyStanza(text) }), text)
	}
}

func TestUninterestingNodesAreNotRendered(t *testing.T) {
	n := node("message", waBinary.Attrs{"id": "3EB0"}, waBinary.Node{Tag: "enc", Content: make([]byte, 1<<20)})
	require.Zero(t, testing.AllocsPerRun(100, func() { reconnect.ClassifyNode(n) }))
}

func BenchmarkClassifyStanza(b *testing.B) {
	text := `<message from="1@s.whatsapp.net" id="3EB0" t="1700000000" type="text"><enc type="msg" v="2"><!-- 180 bytes --></enc></message>`
	b.ReportAllocs()
	for b.Loop() {
		reconnect.ClassifyStanza(text)
	}
}

func BenchmarkClassifyEvent(b *testing.B) {
	var event any = &events.Receipt{}
	b.ReportAllocs()
	for b.Loop() {
		reconnect.Classify(event)
	}
}
