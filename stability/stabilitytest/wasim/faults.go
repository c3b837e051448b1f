package wasim

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/util/keys"
)

func otherRoot() *keys.KeyPair { return keys.NewKeyPair() }

// Faults of connecting, in the order in which a connection meets them.

// Refused refuses the dial.
func Refused() Fault {
	return Fault{name: "refused", stage: stageDial, dial: func(context.Context, *Service) error { return errRefused }}
}

// DialHang leaves the dial without an answer until its context ends, as a
// network that drops packets does.
func DialHang() Fault {
	return Fault{name: "dial hang", stage: stageDial, hang: true, dial: func(ctx context.Context, s *Service) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.done:
			return errRefused
		}
	}}
}

// TLSHang accepts the connection and never answers the TLS client hello.
func TLSHang() Fault { return Fault{name: "TLS hang", stage: stageTLS, hang: true} }

// WrongTLSCertificate shows a certificate of another root.
func WrongTLSCertificate() Fault { return Fault{name: "wrong TLS certificate", stage: stageTLS} }

// UpgradeHang finishes TLS and never answers the websocket upgrade.
func UpgradeHang() Fault { return Fault{name: "upgrade hang", stage: stageUpgrade, hang: true} }

// UpgradeStatus answers the upgrade with an HTTP status: 403, 429, 503.
func UpgradeStatus(code int) Fault {
	return Fault{name: fmt.Sprintf("upgrade status %d", code), stage: stageUpgrade, status: code}
}

// WrongCertificate shows a Noise certificate of another root.
func WrongCertificate() Fault {
	return Fault{name: "wrong Noise certificate", stage: stageCert, chain: func(s *Service) []byte {
		return signNoiseChain(otherRoot(), *s.static.Pub, time.Unix(0, 0), certNotAfter)
	}}
}

// CertificateValid shows the right Noise certificate with these bounds of
// validity: one that has expired, or is not valid yet. Newer clients look at
// them, older ones do not.
func CertificateValid(from, until time.Time) Fault {
	return Fault{name: "bounds of the Noise certificate", stage: stageCert, chain: func(s *Service) []byte {
		return signNoiseChain(s.auth.noiseRoot, *s.static.Pub, from, until)
	}}
}

// HandshakeDrop drops the connection when the client's Noise hello has come.
func HandshakeDrop() Fault { return Fault{name: "handshake drop", stage: stageHello} }

// HelloDelay answers the client's Noise hello only after d. whatsmeow waits
// 20 s for it.
func HelloDelay(d time.Duration) Fault {
	return Fault{name: fmt.Sprintf("server hello after %v", d), stage: stageHello, hang: true, delay: d}
}

// Failure refuses the login with <failure reason=…>: 400 to 503. It also
// strikes devices that are not paired yet, unless limited with For.
func Failure(reason int) Fault {
	return Fault{name: fmt.Sprintf("failure %d", reason), stage: stageLogin, node: failureNode(reason)}
}

// TemporaryBan is failure 402 with a code (101 to 106) and an expiry, of
// which whole seconds count.
func TemporaryBan(code int, expire time.Duration) Fault {
	f := Failure(402)
	f.name = "temporary ban"
	f.node.Attrs["code"] = strconv.Itoa(code)
	f.node.Attrs["expire"] = strconv.Itoa(int(expire / time.Second))
	return f
}

// Faults of a live connection.

func live(name string, f func(*conn) func()) Fault {
	return Fault{name: name, stage: stageLive, live: f}
}

// Reset drops the connection with a RST: what is on the way is lost.
func Reset() Fault {
	return live("reset", func(c *conn) func() {
		c.ending.Store(true)
		c.link.reset()
		return nil
	})
}

// FIN ends the connection without a word, behind what was sent.
func FIN() Fault {
	return live("FIN", func(c *conn) func() {
		c.closeAfter(0)
		return nil
	})
}

// DropAfterSuccess, with OnNextLogin, ends the connection 20 ms behind
// success, with the client's first queries unanswered.
func DropAfterSuccess() Fault {
	return live("drop after success", func(c *conn) func() {
		c.closeAfter(20 * time.Millisecond)
		return nil
	})
}

// WebsocketClose closes the websocket with a status code, 1000 to 1015.
func WebsocketClose(code int) Fault {
	return live(fmt.Sprintf("websocket close %d", code), func(c *conn) func() {
		c.ending.Store(true)
		c.then(func() { c.closeWebsocket(code) })
		return nil
	})
}

func lastWord(name string, n node) Fault {
	return live(name, func(c *conn) func() {
		c.send(n)
		c.closeAfter(c.s.opt.closeDelay)
		return nil
	})
}

// StreamError sends <stream:error> with a code ("500", "503", "515", "401",
// or "" for none), then FIN.
func StreamError(code string) Fault {
	n := node{Tag: "stream:error"}
	if code != "" {
		n.Attrs = attrs{"code": code}
	}
	return lastWord("stream:error "+code, n)
}

// Replaced sends the stream:error that a second login of the device causes.
func Replaced() Fault { return lastWord("conflict replaced", replacedNode()) }

// Conflict sends stream:error with another type of conflict.
func Conflict(typ string) Fault {
	return lastWord("conflict "+typ, node{Tag: "stream:error", Content: []node{{Tag: "conflict", Attrs: attrs{"type": typ}}}})
}

// DeviceRemoved sends stream:error 401 with device_removed and unlinks the
// device, if it is a paired one.
func DeviceRemoved() Fault {
	return live("device removed", func(c *conn) func() {
		if c.dev != nil {
			c.dev.remove(true)
		}
		return nil
	})
}

// StreamEnd sends <xmlstreamend/> and leaves the connection open.
func StreamEnd() Fault {
	return live("stream end", func(c *conn) func() {
		c.send(node{Tag: "xmlstreamend"})
		return nil
	})
}

// DowngradeWebclient tells the client that its QR code was scanned by a phone
// without multidevice.
func DowngradeWebclient() Fault {
	return live("downgrade webclient", func(c *conn) func() {
		c.send(downgradeNode())
		return nil
	})
}

// RefsExhausted ends a connection that shows QR codes as if the last was over.
func RefsExhausted() Fault {
	return live("refs exhausted", func(c *conn) func() {
		if c.pair != nil {
			c.closeAfter(0)
		}
		return nil
	})
}

// Silence keeps the connection up and swallows every stanza in both
// directions: pings are not answered. Stop ends it.
func Silence() Fault {
	return live("silence", func(c *conn) func() {
		c.then(func() {}) // what was sent before still goes out
		c.silent.Store(true)
		return func() { c.silent.Store(false) }
	})
}

// BlackHole lets no byte pass in either direction while the TCP connection
// stays up. Stop lets through what has gathered.
func BlackHole() Fault {
	return live("black hole", func(c *conn) func() { return c.link.blackHole() })
}

// Slow passes bytesPerSecond in each direction (0: no limit) and adds latency
// to each read and write. Stop ends it.
func Slow(bytesPerSecond int, latency time.Duration) Fault {
	return live("slow", func(c *conn) func() { return c.link.slow(bytesPerSecond, latency) })
}

// HoldAcks keeps back the acknowledgements of the client's messages, which
// are delivered nevertheless. Stop sends what was kept.
func HoldAcks() Fault {
	return live("hold acks", func(c *conn) func() {
		if c.held != nil {
			return nil
		}
		held := []node{}
		c.held = &held
		return func() {
			c.held = nil
			for _, n := range held {
				c.send(n)
			}
		}
	})
}

// Partition cuts a label off the service: its connections become black holes
// and its dials hang, until heal.
func (s *Service) Partition(label string) (heal func()) {
	hang := s.Fault(DialHang()).From(label).Always().Now()
	hole := s.Fault(BlackHole()).From(label).Now()
	return func() {
		hang.Stop()
		hole.Stop()
	}
}

// Flood sends a device n receipts of messages that it never sent, one every
// interval, on the connection that it has now; interval 0 sends them at once. A
// JID without a device number means all devices of the account, as in For. It
// returns at once; the flood ends with the connection, and who has none gets
// nothing.
func (s *Service) Flood(who types.JID, n int, interval time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.account(who); a != nil && !s.closed {
		for id, d := range a.devices {
			if (who.Device == 0 || id == who.Device) && d.conn != nil {
				s.flood(d, d.conn, n, interval)
			}
		}
	}
}

// flood runs until the connection ends. The caller holds s.mu.
func (s *Service) flood(d *Device, c *conn, n int, interval time.Duration) {
	s.wg.Go(func() {
		for range n {
			if interval > 0 {
				c.link.sleep(interval)
			}
			if c.ending.Load() {
				return
			}
			s.mu.Lock()
			if d.conn == c && !c.silent.Load() {
				r := node{Tag: "receipt", Attrs: attrs{
					"from": d.acct.JID(), "id": s.id(), "t": time.Now().Unix(), "type": "read",
				}}
				d.count(&r, false)
				c.send(r)
			}
			s.mu.Unlock()
		}
	})
}
