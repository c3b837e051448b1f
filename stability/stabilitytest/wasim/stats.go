package wasim

import "maps"

// DeviceStats counts what a device did, over all its connections.
type DeviceStats struct {
	Logins            int
	Replaced          int            // logins that ended an earlier connection
	StanzasIn         map[string]int // by tag, from the device
	StanzasOut        map[string]int // by tag, to the device: messages, receipts, notifications
	MessagesSent      int            // by the device, refused ones included
	MessagesRefused   int            // by a fault: see MessageNack
	MessagesIgnored   int            // by a fault: see MessageIgnored
	MessagesDelivered int            // to the device, every sending of each
	Redelivered       int            // sendings of a message after its first
	Acks              int
	Receipts          int
	RetryReceipts     int
	PeerRequests      int // of the device to the account's phone, as far as it was on
	Pings             int
	PreKeysUploaded   int
	PreKeysHandedOut  int
	BytesIn, BytesOut int64 // of ended connections, TLS included
}

func (st DeviceStats) clone() DeviceStats {
	st.StanzasIn, st.StanzasOut = maps.Clone(st.StanzasIn), maps.Clone(st.StanzasOut)
	return st
}

func (d *Device) count(n *node, in bool) {
	m := &d.stats.StanzasOut
	if in {
		m = &d.stats.StanzasIn
	}
	if *m == nil {
		*m = map[string]int{}
	}
	(*m)[n.Tag]++
}

// Stats returns the device's counters; those of bytes include the connection
// that it has now.
func (d *Device) Stats() DeviceStats {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	st := d.stats.clone()
	if d.conn != nil {
		st.BytesIn += d.conn.link.in.Load()
		st.BytesOut += d.conn.link.out.Load()
	}
	return st
}

// Connections is how many connections are open, whatever their state.
func (s *Service) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}
