package firestoresim

import (
	"context"
	"encoding/binary"
	"time"

	pb "cloud.google.com/go/firestore/apiv1/firestorepb"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	typeNumber = 2 // of typeOrder
	// A transaction ends by itself after these (public documentation).
	txIdle = 60 * time.Second
	txLife = 270 * time.Second
)

var (
	okStatus             = &spb.Status{}
	errTransactionClosed = invalid("the transaction is invalid or closed")
)

// transaction holds shared locks on what it has read, until it ends. All is
// guarded by Server.mu.
type transaction struct {
	id       string
	db       string
	readOnly bool
	snapshot *database // what a read-only transaction sees, from its first read on
	readAt   time.Time
	docs     map[string]struct{}
	queries  []*query
	began    time.Time
	used     time.Time
	closed   bool
}

func (s *Server) begin(db string, o *pb.TransactionOptions) (*transaction, error) {
	if err := checkDatabase(db); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.txSeq++
	id := binary.BigEndian.AppendUint64(nil, s.txSeq)
	t := &transaction{id: string(id), db: db, docs: map[string]struct{}{}, began: time.Now(), used: time.Now()}
	switch m := o.GetMode().(type) {
	case *pb.TransactionOptions_ReadOnly_:
		if m.ReadOnly.GetConsistencySelector() != nil {
			return nil, unimplemented("a read_time")
		}
		t.readOnly = true
	case *pb.TransactionOptions_ReadWrite_:
		if old := s.txs[string(m.ReadWrite.GetRetryTransaction())]; old != nil {
			s.end(old)
		}
	}
	s.txs[t.id] = t
	return t, nil
}

// newTransaction are the options of a transaction begun by a read: it is
// read-only unless they say otherwise.
func newTransaction(o *pb.TransactionOptions) *pb.TransactionOptions {
	if o.GetMode() == nil {
		return &pb.TransactionOptions{Mode: &pb.TransactionOptions_ReadOnly_{ReadOnly: &pb.TransactionOptions_ReadOnly{}}}
	}
	return o
}

// transaction finds an open transaction; nil for an empty id.
func (s *Server) transaction(db string, id []byte) (*transaction, error) {
	if len(id) == 0 {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	t := s.txs[string(id)]
	if t == nil || t.db != db {
		return nil, errTransactionClosed
	}
	t.used = time.Now()
	return t, nil
}

// end releases a transaction's locks; the caller holds s.mu.
func (s *Server) end(t *transaction) {
	if t == nil || t.closed {
		return
	}
	t.closed = true
	delete(s.txs, t.id)
	close(s.unlocked)
	s.unlocked = make(chan struct{})
}

// expire ends transactions that were forgotten; the caller holds s.mu.
func (s *Server) expire() {
	now := time.Now()
	for _, t := range s.txs {
		if now.Sub(t.used) > txIdle || now.Sub(t.began) > txLife {
			s.end(t)
		}
	}
}

// blocked reports whether another transaction has read what is to be written;
// the caller holds s.mu.
func (s *Server) blocked(db *database, ws []write, own *transaction) bool {
	if len(s.txs) == 0 {
		return false
	}
	s.expire()
	for _, t := range s.txs {
		if t == own || t.readOnly || t.db != db.name {
			continue
		}
		for i := range ws {
			if _, ok := t.docs[ws[i].path]; ok {
				return true
			}
			for _, q := range t.queries {
				if q.concerns(ws[i].path) {
					return true
				}
			}
		}
	}
	return false
}

// view is what a read sees, and when; the caller holds s.mu.
func (s *Server) view(db string, t *transaction) (*database, time.Time) {
	if t == nil || !t.readOnly {
		return s.db(db), s.readTime()
	}
	if t.snapshot == nil {
		t.snapshot, t.readAt = s.db(db).snapshot(), s.readTime()
	}
	return t.snapshot, t.readAt
}

func (v service) BeginTransaction(_ context.Context, r *pb.BeginTransactionRequest) (*pb.BeginTransactionResponse, error) {
	t, err := v.s.begin(r.GetDatabase(), r.GetOptions())
	if err != nil {
		return nil, err
	}
	return &pb.BeginTransactionResponse{Transaction: []byte(t.id)}, nil
}

func (v service) Rollback(_ context.Context, r *pb.RollbackRequest) (*emptypb.Empty, error) {
	if err := checkDatabase(r.GetDatabase()); err != nil {
		return nil, err
	}
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	id := r.GetTransaction()
	if t := v.s.txs[string(id)]; t != nil && t.db == r.GetDatabase() {
		v.s.end(t)
	} else if len(id) != 8 || binary.BigEndian.Uint64(id) > v.s.txSeq {
		return nil, errTransactionClosed
	}
	return &emptypb.Empty{}, nil
}
