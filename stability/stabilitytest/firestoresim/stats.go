package firestoresim

import "maps"

// Billing counts documents as they are billed. A read is each document that is
// found or missing, each result of a query (with those skipped by an offset;
// at least one for a query), and each 1,000 documents counted by an
// aggregation. A write or a delete is each one committed, also if it changes
// nothing. ListenReads are the documents that listeners were sent.
type Billing struct {
	Reads       int
	Writes      int
	Deletes     int
	ListenReads int
}

// Stats counts what a server was asked. RPCs counts every call that came,
// those lost by a fault included.
type Stats struct {
	RPCs map[Method]int
	Billing
}

// Stats is the sum over all clients, since New or ResetStats.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats.clone()
}

// StatsOf is what clients of this name did.
func (s *Server) StatsOf(client string) Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.byClient[client]; st != nil {
		return st.clone()
	}
	return Stats{RPCs: map[Method]int{}}
}

// ResetStats sets all counters to zero.
func (s *Server) ResetStats() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats = Stats{}
	clear(s.byClient)
}

func (st Stats) clone() Stats {
	if st.RPCs = maps.Clone(st.RPCs); st.RPCs == nil {
		st.RPCs = map[Method]int{}
	}
	return st
}

func (s *Server) statsFor(client string) *Stats {
	st := s.byClient[client]
	if st == nil {
		st = &Stats{}
		s.byClient[client] = st
	}
	return st
}

// countRPC and bill are called with s.mu held.
func (s *Server) countRPC(c *call) {
	for _, st := range []*Stats{&s.stats, s.statsFor(c.client)} {
		if st.RPCs == nil {
			st.RPCs = map[Method]int{}
		}
		st.RPCs[c.method]++
	}
}

func (s *Server) bill(c *call, b Billing) {
	if c == nil {
		return
	}
	for _, to := range []*Billing{&s.stats.Billing, &s.statsFor(c.client).Billing, &c.rpc.Billed} {
		to.Reads += b.Reads
		to.Writes += b.Writes
		to.Deletes += b.Deletes
		to.ListenReads += b.ListenReads
	}
}
