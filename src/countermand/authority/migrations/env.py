"""Alembic's entry: run the steps on the connection that the caller holds.

Source: `countermand.authority.database`, which is the only caller.
"""

from alembic import context

from countermand.authority.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
