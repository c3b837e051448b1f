package wasim

import (
	"context"
	"fmt"
	"time"

	"go.mau.fi/whatsmeow/store"
)

func (m *memStore) GetBufferedEvent(_ context.Context, hash [32]byte) (*store.BufferedEvent, error) {
	defer m.lock()()
	if e := m.events[hash]; e != nil {
		c := *e
		return &c, nil
	}
	return nil, nil
}

func (m *memStore) PutBufferedEvent(ctx context.Context, hash [32]byte, plain []byte, at time.Time) error {
	defer m.lock()()
	if m.events[hash] != nil {
		return fmt.Errorf("event %x is buffered already", hash[:4])
	}
	put(ctx, m.events, hash, &store.BufferedEvent{Plaintext: plain, InsertTime: time.Now(), ServerTime: at})
	return nil
}

func (m *memStore) ClearBufferedEventPlaintext(_ context.Context, hash [32]byte) error {
	defer m.lock()()
	if e := m.events[hash]; e != nil {
		e.Plaintext = nil
	}
	return nil
}

func (m *memStore) DeleteOldBufferedHashes(context.Context) error {
	defer m.lock()()
	for k, e := range m.events {
		if time.Since(e.InsertTime) > 14*24*time.Hour {
			delete(m.events, k)
		}
	}
	return nil
}

var (
	_ store.AllStores       = (*memStore)(nil)
	_ store.DeviceContainer = (*memStore)(nil)
)
