package adminhttp_test

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// claims are all sentences that a status, or the page, may say of the states.
var claims = slices.Concat([]claim{
	// These let attempts fail; what was recorded of them is looked at behind that.
	{says: `(?:If it fails: i|I)t (?:retries|tries again,) with growing pauses`, later: grow(0)},
	{says: `It retries with growing pauses, the first of half a minute`, later: grow(30*time.Second - 10*time.Millisecond)},

	// The connection.
	{says: `Connected for ` + span + `(?:; nothing happened for (.*), and the server answers|, but the backend does not answer: the lock could not be renewed for (.*))?`, now: func(x *truth, m []string) {
		x.is(x.online())
		x.same(x.ago(m[1]), x.phone().LastLogin(), after)
		if m[2] != "" {
			x.is(x.phone().Stats().MessagesDelivered == 0 && x.phone().Stats().Pings > 0)
		}
		if m[3] != "" {
			x.same(x.ago(m[3]), x.rec.RenewedAt, after)
		}
	}},
	{says: `Connected: All is well(?:, and nobody writes)?`, now: func(x *truth, _ []string) { x.is(x.online() && x.rec.Holder == x.st.InstanceID) }},
	{says: `Connected: But .*`, now: func(x *truth, _ []string) { x.is(x.online()) }},
	{says: `(?:Disconnected|Banned by WhatsApp: not connected|Locked by WhatsApp: not connected) for ` + span + `(?: \((\w+)\)|: the backend does not answer, and no attempt begins before it does)?`, now: func(x *truth, m []string) {
		x.is(x.away())
		x.same(x.ago(m[1]), x.began(), after)
		if m[2] != "" {
			x.cause(m[2])
		} else if strings.Contains(m[0], "backend") {
			x.is(x.broken.Load())
		} else {
			x.is(x.phone() == nil)
		}
	}, later: func(x *truth, m []string) {
		if strings.Contains(m[0], "backend") {
			nothing(15*time.Second)(x, nil)
		}
	}},
	{says: `Not paired for ` + span + `(?: \((\w+)\))?`, now: func(x *truth, m []string) {
		x.same(x.ago(m[1]), x.began(), after)
		if m[2] != "" {
			x.cause(m[2])
		} else {
			x.is(len(x.account.Devices()) == 0)
		}
	}},
	{says: `No phone has been linked yet(?:, and nobody scanned the codes that were shown)?`, now: func(x *truth, _ []string) { x.is(len(x.account.Devices()) == 0 && x.phone() == nil) }},
	{says: `(?:Disconnected|Not paired|It has not been connected yet)`, now: func(x *truth, _ []string) { x.is(!x.online()) }},
	{says: `It began with (\w+)`, now: func(x *truth, m []string) {
		c := caused[x.name]
		x.is(len(c) > 1 && string(c[1]) == m[1] || x.name == "slow_connection_replaced_again")
	}},
	{says: `The connection ended with (\w+)`, now: func(x *truth, m []string) { x.is(string(caused[x.name][1]) == m[1]) }},
	{says: `Reported: (.*)`, now: func(x *truth, m []string) { x.is(reported[x.name] == m[1]) }},
	{says: `The session that was there ended for good at ` + clk + `, and nobody has scanned a new code since`, now: func(x *truth, m []string) {
		x.same(x.clock(m[1]), x.phone().LastEnd(), after)
		x.is(len(x.account.Devices()) == 0)
	}},
	{says: `(?:Connecting: )?An attempt is under way(?:, and given up after (\S+) at the latest)?`, now: func(x *truth, _ []string) {
		x.is(x.sim.Connections() > 0 && x.away())
	}, later: func(x *truth, m []string) {
		if m[1] == "" {
			return
		}
		all := x.since(time.Time{})
		i := slices.IndexFunc(all, func(at time.Time) bool { return at.After(x.st.At) })
		const pause = 2 * time.Second // before the next one
		x.is(i > 0 && all[i].Sub(all[i-1]) <= x.span(m[1])+pause)
	}},

	// Attempts.
	{says: `It tries again rarely, in case the version is accepted again`, later: rare},
	{says: `It tries only rarely now, so that two copies do not fight`, later: rare},
	{says: `Restarting the process did not help, and as many restarts as are allowed within 1 h were made: attempts are rare now`, later: rare},
	{says: `It came back, and was replaced again`, now: func(x *truth, _ []string) { x.is(x.phone().Stats().Logins >= 2) }},
	{says: `It makes a few slow attempts \(three, unless set otherwise\), then stops`, later: func(x *truth, _ []string) {
		x.sim.Fault(wasim.Failure(413)).Always().OnNextLogin()
		time.Sleep(3 * time.Hour)
		x.is(len(x.since(x.began())) == 4) // and the one that was refused first
	}},
	{says: `Next attempt in ` + span, later: func(x *truth, m []string) {
		d := x.span(m[1])
		give := after
		if d < time.Second {
			give = 150 * time.Millisecond
		}
		x.tries(x.in(m[1]), give)
	}},
	{says: `(?:The next attempt is made at|One attempt is made when the ban is over, at) ` + clk + `(?:, and none before)?`, later: func(x *truth, m []string) { x.tries(x.clock(m[1]), after) }},
	{says: `It pauses, then tries once`, later: func(x *truth, _ []string) { x.becomes(time.Hour, x.online) }},
	{says: `If it is replaced again it tries only rarely, so that two copies do not fight`, asked: func(x *truth, _ []string) {
		x.becomes(time.Hour, x.online)
		time.Sleep(time.Minute)
		x.sim.Fault(wasim.Replaced()).For(x.account.JID()).Now()
		at := time.Now()
		time.Sleep(9 * time.Minute)
		x.is(len(x.since(at)) == 0)
	}},
	{says: `After some in a row \(three, unless set otherwise\) it repairs the local session; credentials are never deleted for this`, asked: func(x *truth, _ []string) {
		x.sim.Heal()
		x.becomes(time.Hour, func() bool { return x.online() && x.account.Devices()[0] == x.phone() })
	}},
	{says: `(?:No attempt is made until somebody asks for one|It stops|No attempt is planned|No attempt is planned: it is the program's move|It is the program's move: its next attempt has been due (?:for|since) .*|Not connected: The next attempt is the program's to make)`, later: nothing(time.Hour)},
	{says: `Nothing happens until somebody presses Try now`, later: nothing(time.Hour), asked: func(x *truth, _ []string) {
		from := time.Now().Add(-1)
		x.m.Reconnect()
		x.becomes(2*time.Second, func() bool { return len(x.since(from)) > 0 || x.online() })
	}},
	{says: `Nothing of the session was sent`, now: func(x *truth, _ []string) { x.is(x.phone().LastLogin().Before(x.phone().LastEnd())) }},

	{says: `Not connected: It does not come back by itself: somebody must press Try now`, later: nothing(time.Hour)},
	{says: `Not connected: It comes back by itself|Banned for now: It comes back by itself when the ban is over`, asked: func(x *truth, _ []string) {
		x.sim.Heal()
		x.becomes(2*time.Hour, x.online)
	}},
	{says: `Not connected: It tries again, .*`, later: func(x *truth, _ []string) {
		x.becomes(time.Hour, func() bool { return len(x.since(x.st.At)) > 0 })
	}},

	// Pairing.
	{says: `No code to scan is offered before somebody asks for one`, later: nothing(time.Hour)},
	{says: `Nothing happens until somebody asks for a code to scan`, later: nothing(time.Hour)},
	{says: `Nothing happens by itself: no code is offered until somebody asks for one`, later: nothing(time.Hour)},
	{says: `(?:Then p|P)ress Show a code: a code to scan is there after some seconds`, asked: func(x *truth, _ []string) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		q, err := x.m.WaitQR(ctx)
		require.NoError(x.t, err, x.told)
		x.is(q.Code != "")
	}},
	{says: `Scan it within a minute, on the phone: .*`, asked: func(x *truth, _ []string) {
		time.Sleep(50 * time.Second)
		q, ok := x.m.QR()
		x.is(ok && x.account.Phone().Scan(q.Code) == nil)
		x.becomes(time.Minute, func() bool { d := x.account.Devices(); return len(d) > 0 && d[len(d)-1].Online() })
	}},
	{says: `Scan the code with the phone, under Linked devices`, now: func(x *truth, _ []string) { _, ok := x.m.QR(); x.is(ok) }},
	{says: `Not linked: Scan the code with the phone`, now: func(x *truth, _ []string) { _, ok := x.m.QR(); x.is(ok) }},
	{says: `The code is replaced by a new one when it expires; after some minutes without a scan no more are offered until somebody asks`, later: func(x *truth, _ []string) {
		q, ok := x.m.QR()
		x.is(ok)
		x.until(q.ExpiresAt.Add(10 * time.Second))
		next, ok := x.m.QR()
		x.is(ok && next.Code != q.Code)
		time.Sleep(time.Hour)
		nothing(time.Hour)(x, nil)
	}},
	{says: `(?:The code to type can be used until ` + clk + `|Type the code that was asked for into the phone, under Linked devices, Link with phone number: it lasts another ` + span + `)`, later: func(x *truth, m []string) {
		until := x.st.PhoneCodeUntil
		if m[1] != "" {
			x.same(x.clock(m[1]), until, after)
		} else {
			x.same(x.in(m[2]), until, after)
		}
		if len(x.account.Devices()) > 0 {
			return // it was used
		}
		x.until(until.Add(-3 * time.Second))
		require.NoError(x.t, x.account.Phone().EnterCode(x.typed), x.told)
		x.becomes(time.Minute, func() bool { d := x.account.Devices(); return len(d) > 0 && d[0].Online() })
	}},
	{says: `If nobody answers within some minutes, a new code to scan is shown`, later: func(x *truth, _ []string) {
		for len(x.codes) > 0 {
			<-x.codes
		}
		x.becomes(15*time.Minute, func() bool { return len(x.codes) > 0 })
	}},
	{says: `A code to scan is on its way|Not linked: A code to scan is on its way|A connection for pairing is made, then a code to scan is shown`, later: func(x *truth, _ []string) {
		x.becomes(30*time.Second, func() bool { _, ok := x.m.QR(); return ok })
	}},

	{says: `The code was scanned, and WhatsApp asks for a passkey.*|Not linked: WhatsApp asks for a passkey, .*`, now: func(x *truth, _ []string) { x.is(x.name == "never_paired_passkey_asked") }},
	{says: `Not linked: .*`, now: func(x *truth, _ []string) { x.is(len(x.account.Devices()) == 0) }},
	{says: `(?:Banned|Locked): .*`, now: func(x *truth, _ []string) { x.is(!x.online()) }},

	// The lock.
	{says: `Standing by: another Manager of this process \((.*)\) holds the lock`, now: func(x *truth, m []string) { x.is(x.rec.Holder == m[1] && x.rec.LeaseUntil.After(x.st.At)) }},
	{says: `Another Manager in this same process holds the lock and looks after the connection`, now: func(x *truth, _ []string) { x.is(x.rec.Holder == "wa-2" && x.online()) }},
	{says: `Standby: Another instance looks after the account`, now: func(x *truth, _ []string) { x.is(x.rec.Holder == "wa-2" && x.online()) }},
	{says: `This instance takes over (?:again )?when (?:it is|the lock is released or expires|it is released or expires|the lock is released)`, later: func(x *truth, _ []string) {
		x.other.stop()
		x.takes(20 * time.Second)
	}},
	{says: `This instance can take (?:over|it) when (?:it|the lock) is released or expires(?:, and the program asks for it)?`, asked: func(x *truth, _ []string) {
		x.other.stop()
		ok, err := x.m.TryActivate(context.Background())
		x.is(ok && err == nil && x.lock().Holder == x.st.InstanceID)
	}},
	{says: `This instance had the connection until ` + clk + `, and lost the lock then`, now: func(x *truth, m []string) { x.same(x.clock(m[1]), x.phone().LastEnd(), after) }},
	{says: `Another instance has taken it, and looks after the connection`, now: func(x *truth, _ []string) { x.is(x.rec.Holder == "wa-2" && x.online()) }},
	{says: `It took over from wa-2, which could not connect \((\w+)\)`, now: func(x *truth, m []string) {
		x.is(x.rec.Holder == "wa-1" && !x.other.at(&x.other.released).IsZero())
		x.cause(m[1])
	}},
	{says: `This instance gave the lock up ` + span + ` ago \((\w+)\), and got it back`, now: func(x *truth, m []string) {
		x.same(x.ago(m[1]), x.at(&x.released), after)
		x.is(x.rec.Holder == "wa-1")
		x.cause(m[2])
	}},
	{says: `Not active: (\S+) held the lock when this instance last asked, ` + span + ` ago, and may have given it up since`, now: func(x *truth, m []string) {
		x.is(m[1] == "wa-2")
		x.same(x.ago(m[2]), x.at(&x.asked), after)
	}},
	{says: `Another instance held the lock when this one last asked, at ` + clk, now: func(x *truth, m []string) { x.same(x.clock(m[1]), x.at(&x.asked), after) }},
	{says: `Not active: This instance does not look after the account, and .*`, now: func(x *truth, _ []string) { x.is(x.rec.Holder == "") }},
	{says: `Not active: this instance does not hold the lock, and takes it only when the program asks for it|This instance takes it only when the program asks for it`, now: func(x *truth, _ []string) { x.is(x.rec.Holder != x.st.InstanceID) },
		later: func(x *truth, _ []string) {
			at := x.at(&x.asked)
			time.Sleep(10 * time.Minute)
			x.is(x.at(&x.asked).Equal(at) && x.lock().Holder == "")
		}},
	{says: `The program has not asked this instance to look after the account, and this instance knows of no other that does`, now: func(x *truth, _ []string) { x.is(x.at(&x.asked).IsZero() && x.rec.Holder == "") }},
	{says: `(?:This instance looks after the account as soon as the program asks for that|The lock is taken as soon as the program asks for it) .*`, asked: func(x *truth, _ []string) {
		ok, err := x.m.TryActivate(context.Background())
		x.is(ok && err == nil && x.lock().Holder == x.st.InstanceID)
	}},
	{says: `Released: This instance gave the lock up ` + span + ` ago, because it could not connect \((\w+)\)`, now: func(x *truth, m []string) {
		x.is(x.rec.Holder == "")
		x.same(x.ago(m[1]), x.at(&x.released), after)
		x.cause(m[2])
	}},
	{says: `Another one can connect meanwhile|Standing aside: .*|This may be the fault of this instance, so it gave the lock up, and another one can try`, now: func(x *truth, _ []string) { x.is(x.rec.Holder == "") }},
	{says: `(?:It asks for the lock again in ` + span + `|This instance asks for the lock again at ` + clk + `, unless another one has taken it)`, later: func(x *truth, m []string) {
		at := x.st.AsksAgainAt
		if m[1] != "" {
			x.same(x.in(m[1]), at, after)
		} else {
			x.same(x.clock(m[2]), at, after)
		}
		if time.Now().Before(at) {
			x.until(at.Add(-after))
			x.is(x.at(&x.asked).Before(x.st.At))
		}
		x.until(at.Add(after))
		x.same(at, x.at(&x.granted), after)
	}},

	// The backend.
	{says: `(?:The backend does not answer|Not connected: The backend does not answer|Standby: The backend does not answer|The backend that keeps the session)\b.*`, now: func(x *truth, _ []string) {
		x.is(x.broken.Load())
		if _, at, ok := strings.Cut(x.told, "could not be renewed since "); ok {
			x.same(x.clock(at), x.rec.RenewedAt, after)
		}
	}},
	{says: `The error: .*: (.*)`, now: func(x *truth, m []string) {
		x.is(x.name == "run_failed" && m[1] == "no such table" || m[1] == errNoRoute.Error())
	}},
	{says: `It is asked again until it does|It is asked again and again`, later: asksBackend},
	{says: `If it has not answered at ` + clk + `, another instance may take the lock; this one then stands by`, now: func(x *truth, m []string) {
		left := x.rec.LeaseUntil.Sub(x.clock(m[1]))
		x.is(left >= 0 && left <= x.st.Settings.Margin+after)
	}},
	{says: `Unless it can, the connection is cut in ` + span + `|If it has not answered at ` + clk + `, the connection is cut, before another instance can take the lock; all goes on by itself when the backend is back`, later: func(x *truth, m []string) {
		at := x.st.Heartbeats.TrustedUntil
		if m[1] != "" {
			x.same(x.in(m[1]), at, after)
		} else {
			x.same(x.clock(m[2]), at, after)
		}
		if time.Now().Before(at) {
			x.until(at.Add(-after))
			x.is(x.online())
			x.until(at.Add(after))
		}
		x.is(!x.online() && x.phone().LastEnd().Before(x.rec.LeaseUntil))
	}, asked: func(x *truth, _ []string) {
		x.broken.Store(false)
		x.takes(time.Minute)
	}},
	{says: `The backend is asked again every few seconds; the connection is tried again as soon as it answers`, later: asksBackend, asked: func(x *truth, _ []string) {
		x.broken.Store(false)
		x.takes(20 * time.Second)
	}},
	{says: `The backend is asked again every few seconds; this instance then stands by or becomes active`, later: asksBackend, asked: func(x *truth, _ []string) {
		x.broken.Store(false)
		x.becomes(time.Minute, func() bool { return x.lock().Holder == x.st.InstanceID })
	}},

	// Messages.
	{says: `Messages are received as they come(?:, and sends to existing chats go on)?`, later: receives},
	{says: `Nothing needs to happen: nobody writes, and the server answers pings`, now: func(x *truth, _ []string) {
		x.is(x.phone().Stats().Pings > 0 && x.phone().Stats().MessagesDelivered == 0)
	}},
	{says: `It goes on like this|The connection is kept`, later: kept},
	{says: `The connection is kept, and messages come in`, later: receives},
	{says: `The link is alive, but an event handler of this program has been running for ` + span + `; what comes after it waits`, now: func(x *truth, m []string) {
		x.same(x.ago(m[1]), x.at(&x.blocked), after)
	}},
	{says: `Messages that cannot be handed over wait, and nothing is lost`, later: func(x *truth, _ []string) {
		id := x.writes()
		time.Sleep(10 * time.Second)
		x.is(!slices.Contains(x.phone().AckedMessages(), id))
		close(*x.block.Swap(nil))
		x.becomes(time.Minute, func() bool { return len(x.phone().Pending()) == 0 && slices.Contains(x.phone().AckedMessages(), id) })
	}},
	{says: `The link is alive, but (\d+) messages within \S+ could not be decrypted`, now: func(x *truth, m []string) {
		ids := x.phone().AckedMessages()
		slices.Sort(ids)
		ids = slices.Compact(ids)
		x.is(x.phone().Stats().RetryReceipts >= 10 && strconv.Itoa(len(ids)-1) == m[1]) // one was sent while all was well
	}},
	{says: `Their senders are asked to send them again, and most come then`, now: func(x *truth, _ []string) {
		x.is(x.phone().Stats().RetryReceipts > 0 && len(x.phone().Pending()) == 0)
	}},
	{says: `The last (\d+) sends were refused with code 463`, now: func(x *truth, m []string) { x.is(strconv.Itoa(x.phone().Stats().MessagesRefused) == m[1]) }},
	{says: `None was accepted since this program began|The link is alive, but what is sent does not go through`, now: func(x *truth, _ []string) {
		s := x.phone().Stats()
		x.is(s.MessagesSent == s.MessagesRefused && s.MessagesSent > 0)
	}},
	{says: `Of the messages sent since this program began, WhatsApp has accepted (\d+), refused (\d+), and not answered 0`, now: func(x *truth, m []string) {
		s := x.phone().Stats()
		x.is(strconv.Itoa(s.MessagesSent-s.MessagesRefused) == m[1] && strconv.Itoa(s.MessagesRefused) == m[2])
	}},
	{says: `New chats are refused \(code 463\), while sends to others are accepted`, now: func(x *truth, _ []string) {
		s := x.phone().Stats()
		x.is(s.MessagesRefused > 0 && s.MessagesSent > s.MessagesRefused)
	}},
	{says: `Nothing is sent again by itself`, later: func(x *truth, _ []string) {
		n := x.phone().Stats().MessagesSent
		time.Sleep(10 * time.Minute)
		x.is(x.phone().Stats().MessagesSent == n)
	}},
	{says: `An incident is open while this lasts`, now: func(x *truth, _ []string) { x.is(x.incident()) }},
	{says: `An incident is open until a send is accepted`, now: func(x *truth, _ []string) { x.is(x.incident()) }, asked: func(x *truth, _ []string) {
		x.is(x.incident())
		x.sim.Heal()
		c, err := x.sim.NewContact(context.Background(), "491520000088")
		require.NoError(x.t, err)
		_, err = x.m.Client().SendMessage(context.Background(), c.JID(), &waE2E.Message{Conversation: proto.String("hello")})
		require.NoError(x.t, err)
		x.becomes(2*time.Minute, func() bool { return !x.incident() }) // it is looked at each minute
	}},
	{says: `No incident is raised for this`, now: func(x *truth, _ []string) { x.is(!x.incident()) }},

	{says: `WhatsApp delivers refused messages again at the next login; this program makes a new connection for that by itself|For those that were refused the connection is made anew, with pauses of up to a quarter of an hour between: .*`, asked: func(x *truth, _ []string) {
		x.refuses.Store(false)
		x.becomes(16*time.Minute, func() bool {
			s := x.phone().Stats()
			return s.Redelivered > 0 && s.Logins >= 3 && len(x.phone().Pending()) == 0
		})
	}},
	{says: `One message (?:waits here to be handed over to|was refused by) the program's handlers; it was received ` + span + ` ago`, now: func(x *truth, m []string) {
		x.same(x.ago(m[1]), x.at(&x.blocked), after)
	}},
	{says: `This is tried again and again, with pauses of up to a quarter of an hour|Those that are kept here are handed over again with pauses of up to a quarter of an hour`, asked: func(x *truth, _ []string) {
		x.panics.Store(nil)
		x.becomes(16*time.Minute, func() bool { return x.took.Load() == 2 }) // and the one that was written behind it
	}},
	{says: `Other messages are handled as they come`, later: func(x *truth, _ []string) {
		x.panics.Store(nil)
		x.refuses.Store(false)
		id := x.writes()
		x.becomes(10*time.Second, func() bool { return slices.Contains(x.phone().AckedMessages(), id) })
	}},
	// The program.
	{says: `Nothing: this instance is over, and its lock was given back`, now: func(x *truth, _ []string) { x.is(x.rec.Holder == "") }, later: nothing(time.Hour)},
	{says: `The program ended its use of the account \(it closed the Manager\)`, now: func(x *truth, _ []string) { x.is(x.name == "closed") }},
	{says: `Stopped: .*|Run has ended with an error, .*|Nothing happens here before the program is started again, .*`, now: func(x *truth, _ []string) { x.is(x.rec.Holder == "") }, later: nothing(time.Hour)},
	{says: `The part of the program that looks after the account \(Run\) has ended with an error: .*: (.*)`, now: func(x *truth, m []string) { x.is(m[1] == "no such table") }},
	{says: `Another instance takes over if one stands by`, asked: func(x *truth, _ []string) {
		x.second().run()
		x.becomes(20*time.Second, func() bool { return x.lock().Holder == "wa-2" })
	}},
	{says: `Closed: (?:this instance does nothing any more|This instance looks after nothing any more)`, later: nothing(time.Hour)},
}, meanings(), advice())
