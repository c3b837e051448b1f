package postgresbackend_test

import (
	"context"
	"errors"
	"log"
	"os"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/postgresbackend"
)

// serve keeps many accounts in one database, over one pool of connections.
func serve(ctx context.Context, database string, accounts ...string) (failed error) {
	db, err := postgresbackend.Open(ctx, database) // or a *pgxpool.Pool of yours
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.Migrate(ctx); err != nil { // explicit: nothing else creates a table
		return err
	}
	for _, account := range accounts {
		backend, err := db.Account(account)
		if err != nil {
			return err
		}
		m, err := stability.New(stability.WithBackend(backend))
		if err != nil {
			return err
		}
		defer func() { failed = errors.Join(failed, m.Close(ctx)) }()
		// m.Run(ctx, setup), each in a goroutine of its own
	}
	return nil
}

// Many accounts share one database and one pool.
func ExampleOpen() {
	if err := serve(context.Background(), os.Getenv("DATABASE_URL"), "support", "sales"); err != nil {
		log.Fatal(err)
	}
}
