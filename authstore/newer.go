package authstore

import (
	"context"
	"time"

	"go.mau.fi/whatsmeow/types"
)

// What newer versions of whatsmeow ask of a store, so that a host on one of
// them compiles and works.

const nctSalt = "nct_salt"

func (s *deviceStore) PutNCTSalt(ctx context.Context, salt []byte) error {
	return s.later(ctx, "put NCT salt", soon, put(tMisc, nctSalt, copyOf(salt)))
}

func (s *deviceStore) GetNCTSalt(ctx context.Context) ([]byte, error) {
	if err := s.ready("get NCT salt"); err != nil {
		return nil, err
	}
	if v, ok := s.get(ctx, tMisc, nctSalt); ok {
		return copyOf(v), nil
	}
	return nil, nil
}

func (s *deviceStore) DeleteNCTSalt(ctx context.Context) error {
	return s.later(ctx, "delete NCT salt", soon, del(tMisc, nctSalt))
}

// Outgoing events are kept so that a retry receipt can be answered after a
// restart. They ride on the commit of the send, and are kept as long as the
// service keeps messages.

func outgoingID(chat types.JID, id types.MessageID) string {
	return shortHash(string(id)) + "/" + shortHash(chat.ToNonAD().String())
}

func (s *deviceStore) AddOutgoingEvent(ctx context.Context, chat types.JID, id types.MessageID, format string, plaintext []byte) error {
	value := append(appendBytes(fieldsOf(time.Now().UnixMilli()), []byte(format)), plaintext...)
	return s.later(ctx, "add outgoing event", soon, put(tOutgoing, outgoingID(chat, id), value))
}

// GetOutgoingEvent looks under chat, then under altChat. Missing: empty, nil.
func (s *deviceStore) GetOutgoingEvent(ctx context.Context, chat, altChat types.JID, id types.MessageID) (format string, plaintext []byte, err error) {
	const op = "get outgoing event"
	if err := s.ready(op); err != nil {
		return "", nil, err
	}
	ids := []string{outgoingID(chat, id)}
	if !altChat.IsEmpty() {
		ids = append(ids, outgoingID(altChat, id))
	}
	for _, rowID := range ids {
		v, ok := s.get(ctx, tOutgoing, rowID)
		if !ok {
			rows, err := s.scan(op, tOutgoing, rowID)
			if err != nil {
				return "", nil, err
			}
			if len(rows) == 0 {
				continue
			}
			v = rows[0].data
		}
		f := fields{b: v}
		_ = f.varint()
		format = string(f.bytes())
		if f.err != nil {
			if err := s.setAside(tOutgoing, rowID, v, f.err); err != nil {
				return "", nil, err
			}
			continue
		}
		return format, copyOf(f.b), nil
	}
	return "", nil, nil
}

func (s *deviceStore) DeleteOldOutgoingEvents(ctx context.Context) error {
	const op = "delete old outgoing events"
	if err := s.ready(op); err != nil {
		return err
	}
	rows, err := s.scan(op, tOutgoing, "")
	if err != nil {
		return err
	}
	limit := time.Now().Add(-eventTTL).UnixMilli()
	var changes []change
	for _, r := range rows {
		f := fields{b: r.data}
		if f.varint() < limit {
			changes = append(changes, del(tOutgoing, r.row.bucket))
		}
	}
	return s.write(ctx, op, changes...)
}
