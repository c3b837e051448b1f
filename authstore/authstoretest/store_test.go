package authstoretest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability/memorybackend"
)

func TestAWrapperThatHidesMethodsIsNamed(t *testing.T) {
	c := authstore.New(memorybackend.New().Backend().Auth)
	StoreIsComplete(t, c)
	StoreIsComplete(t, struct{ *authstore.Container }{c})
	require.Equal(t, []string{
		"MessageBook.MessageEntries", "MessageBook.PutMessageEntry",
		"EventLeftovers.DeliveredEvent", "EventLeftovers.LeftoverEvents", "EventLeftovers.SettleEvents",
		"Maintainer.PurgeDevice", "Maintainer.PurgeRows", "Maintainer.Quarantined", "Maintainer.Reseal", "Maintainer.Restore",
		"Retainer.Retention",
		"OutgoingCounter.OutgoingAsked",
	}, lacking(struct{ authstore.Store }{c}))
	require.Equal(t, []string{"Maintainer.PurgeRows"}, lacking(otherPurge{c}), "a method of another shape is none")
	require.Equal(t, []string{"MessageBook.PutMessageEntry"}, lacking(otherBook{c}))
}

type otherPurge struct{ *authstore.Container }

func (otherPurge) PurgeRows(context.Context) error { return nil }

type otherBook struct{ *authstore.Container }

func (otherBook) PutMessageEntry(ctx context.Context, id string, entry []byte) error { return nil }
